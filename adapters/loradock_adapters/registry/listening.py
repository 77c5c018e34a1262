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
        try:
            pooled = engine.raw_connection()
        except _errors() as error:  # the driver's own, where sessions have SQLAlchemy's
            raise RegistryError(f"the registry's database failed: {error}") from error
        # Any, because SQLAlchemy knows no driver's types: this is psycopg's own connection.
        connection: Any = pooled.driver_connection
        pooled.detach()
        self._connection = connection
        try:
            connection.autocommit = True
            connection.execute(f"LISTEN {CHANNEL}")
            # Kept, because a connection that broke tells its number no more, and who waits on it must let go of it.
            self._fileno = int(connection.fileno())
        except _errors() as error:
            connection.close()
            raise RegistryError(f"the registry's database failed: {error}") from error

    def fileno(self) -> int:
        return self._fileno

    def clear(self) -> None:
        """Take in what has come, without waiting. Raises RegistryError when the connection broke."""
        try:
            self._connection.pgconn.consume_input()
            while self._connection.pgconn.notifies() is not None:
                pass
        except _errors() as error:
            raise RegistryError(f"the registry's database closed the connection: {error}") from error

    def close(self) -> None:
        self._connection.close()


def _errors() -> type[Exception]:
    import psycopg  # only there with the extra `postgres`, without which nobody gets here

    return psycopg.Error
