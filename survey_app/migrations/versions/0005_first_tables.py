"""The first schema. It has no migration: `Store.migrate` creates the tables of a new database."""

revision = "0005"
down_revision = None


def upgrade() -> None:
    pass
