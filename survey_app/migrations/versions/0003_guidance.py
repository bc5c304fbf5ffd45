"""Introductions of tasks, a quiz, the device, and trials without an answer"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0001"
branch_labels = None
depends_on = None

COUNTS = ("first_page", "quiz_attempts", "introduced")


def upgrade() -> None:
    for name in COUNTS:
        column = sa.Column(name, sa.Integer(), nullable=False, server_default="0")
        op.add_column("participants", column)
    op.add_column("participants", sa.Column("device", sa.JSON(), nullable=True))
    op.add_column("responses", sa.Column("missing", sa.String(length=10), nullable=True))


def downgrade() -> None:
    op.drop_column("responses", "missing")
    for name in ("device", *COUNTS):
        op.drop_column("participants", name)
