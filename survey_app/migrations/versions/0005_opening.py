"""The moment from which a study takes people"""

import sqlalchemy as sa
from alembic import op

from survey_app.schema import Moment

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("recruitment", sa.Column("opens", Moment(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("recruitment", "opens")
