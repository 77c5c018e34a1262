"""Alembic's door to the registry: it migrates the connection that `Database` hands over, and nothing else."""

from __future__ import annotations

from alembic import context

from loradock_adapters.registry.tables import Table

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    render_as_batch=True,  # SQLite cannot alter most things in place
)
with context.begin_transaction():
    context.run_migrations()
