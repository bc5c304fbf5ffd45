"""The tables of the first version; those of a new database are made by `Store.migrate`."""

revision = "0005"
down_revision = None


def upgrade() -> None:
    pass
