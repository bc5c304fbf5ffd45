"""The script that Alembic runs: it migrates the database through the store's connection."""

from alembic import context

from survey_app.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
