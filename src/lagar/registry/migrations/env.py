"""Run by alembic, from `registry.catalog` only: on the connection and in the transaction that it was given."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], target_metadata=None, transactional_ddl=False)
context.run_migrations()
