"""Hearing of changes that other processes commit, on a PostgreSQL connection kept for that alone.

SQLite has nothing of the kind; there one asks for the revision now and then. It knows no event loop, only a file
descriptor that becomes readable.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine

from loradock_adapters.errors import RegistryError

CHANNEL = "loradock_registry"


class Listener:
    """Wait until `fileno()` is readable, then `clear()` it, then look at the revision."""

    def __init__(self, engine: Engine) -> None:
        pooled = engine.raw_connection()
        # Any, because SQLAlchemy knows no driver's types: this is psycopg's own connection.
        connection: Any = pooled.driver_connection
        pooled.detach()
        connection.autocommit = True
        connection.execute(f"LISTEN {CHANNEL}")
        self._connection = connection

    def fileno(self) -> int:
        return int(self._connection.fileno())

    def clear(self) -> None:
        """Take in what has come, without waiting. Raises RegistryError when the connection broke."""
        import psycopg  # only there with the extra `postgres`, without which nobody gets here

        try:
            self._connection.pgconn.consume_input()
        except psycopg.Error as error:
            raise RegistryError(f"the registry's database closed the connection: {error}") from error
        while self._connection.pgconn.notifies() is not None:
            pass

    def close(self) -> None:
        self._connection.close()
