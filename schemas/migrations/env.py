"""Alembic's entry: the caller brings the connection, already in a transaction and holding the lock."""

from alembic import context

from schemas.tables import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    render_as_batch=connection.dialect.name == "sqlite",
    transaction_per_migration=False,
)
context.run_migrations()
