"""Recruitment beside the study; nothing is kept of people who have not agreed"""

from uuid import uuid4

import sqlalchemy as sa
from alembic import op

from survey_app.schema import Moment

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "recruitment",
        sa.Column("study", sa.String(length=16), nullable=False),
        sa.Column("source", sa.String(length=10), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("study", "source"),
    )
    op.create_table(
        "recruitment_log",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("study", sa.String(length=16), nullable=False),
        sa.Column("source", sa.String(length=10), nullable=False),
        sa.Column("moment", Moment(timezone=True), nullable=False),
        sa.Column("event", sa.String(length=20), nullable=False),
        sa.Column("detail", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_table(
        "turned_away",
        sa.Column("study", sa.String(length=16), nullable=False),
        sa.Column("nonce", sa.String(length=32), nullable=False),
        sa.Column("source", sa.String(length=10), nullable=False),
        sa.Column("platform", sa.String(length=20), nullable=False),
        sa.Column("reason", sa.String(length=20), nullable=False),
        sa.PrimaryKeyConstraint("study", "nonce"),
    )
    op.create_table(
        "blocked",
        sa.Column("study", sa.String(length=16), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("study", "digest"),
    )
    op.add_column("studies", sa.Column("content", sa.JSON(), nullable=True))
    op.add_column("participants", sa.Column("code", sa.String(length=64), nullable=True))
    _forget_who_never_agreed()


def _forget_who_never_agreed() -> None:
    """People who only arrived, declined, or found no place: they are counted, and gone."""
    connection = op.get_bind()
    people = sa.table(
        "participants",
        *(sa.column(name) for name in ("study", "participant", "source", "platform", "reason")),
        sa.column("status"),
        sa.column("consented_at"),
    )
    identities = sa.table("identities", sa.column("study"), sa.column("participant"))
    away = sa.table(
        "turned_away",
        *(sa.column(name) for name in ("study", "nonce", "source", "platform", "reason")),
    )
    never = people.c.consented_at.is_(None) & people.c.status.in_(("arrived", "screened_out"))
    for row in connection.execute(sa.select(people).where(never)).all():
        if row.reason:
            connection.execute(
                away.insert().values(
                    study=row.study,
                    nonce=uuid4().hex,
                    source=row.source,
                    platform=row.platform,
                    reason=row.reason,
                )
            )
        for table in (identities, people):
            connection.execute(
                sa.delete(table).where(
                    table.c.study == row.study, table.c.participant == row.participant
                )
            )


def downgrade() -> None:
    op.drop_column("participants", "code")
    op.drop_column("studies", "content")
    for table in ("blocked", "turned_away", "recruitment_log", "recruitment"):
        op.drop_table(table)
