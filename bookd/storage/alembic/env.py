"""Alembic runs this file for each command; `bookd.storage.migrate` hands it the connection and owns the transaction."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
context.run_migrations()
