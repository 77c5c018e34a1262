"""Connections to PostgreSQL on which nobody waits for ever: for a server that is gone, one that is frozen, one that is
busy with the statement, or a pool that others have emptied.

The server's own limits end what is slow, and say so. A server that says nothing at all, stopped or behind a network
that swallows packets, can end nothing: for that the client's end of the connection has a limit too, and is closed at
it. What was sent and not committed by then is rolled back by the server, whenever it goes on. It knows no table.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL

if TYPE_CHECKING:
    import psycopg

DRIVER = "postgresql+psycopg"
STATEMENT_SECONDS = 20.0
"""How long the server works on one statement, waiting for others' locks included."""
SILENT_SECONDS = 25.0
"""How long it may say nothing to a statement; more than STATEMENT_SECONDS, so that a server that lives says why."""
PING_SECONDS = 5.0
"""The same for the question whether a connection that lay in the pool is still good."""
POOL_SECONDS = 10.0
"""How long to wait for a connection while all are taken."""
IDLE_SECONDS = 60.0
"""After this the server takes its locks away from whoever began a transaction and went silent himself."""

# A host that is gone says nothing: without these a thread would wait for it for a quarter of an hour.
_CONNECTING: Mapping[str, int] = {
    "connect_timeout": 10,
    "tcp_user_timeout": 20_000,  # milliseconds
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
}


def postgresql_engine(url: URL, lock_seconds: float) -> Engine:
    """An engine for psycopg. What the URL says of connecting counts more than what is set here."""
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername=DRIVER)
    options = {name: value for name, value in _CONNECTING.items() if name not in url.query}
    # A pooled connection may have died with its server, which restarts now and then.
    engine = create_engine(url, pool_pre_ping=True, pool_timeout=POOL_SECONDS, connect_args=options)
    if url.drivername == DRIVER:
        _limit_silence(engine)

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        # By SQL, because poolers take no options at the start of a session. As SQLite's busy timeout: whoever holds the
        # lock of all writers for long makes others fail, not wait for ever.
        limits = {
            "lock_timeout": lock_seconds,
            "statement_timeout": STATEMENT_SECONDS,
            "idle_in_transaction_session_timeout": IDLE_SECONDS,
        }
        connection.autocommit = True
        connection.execute("; ".join(f"SET {name} = {round(seconds * 1000)}" for name, seconds in limits.items()))
        connection.autocommit = False

    return engine


def take_your_time(connection: Connection) -> None:
    """Statements of the transaction that has begun on this connection may take as long as they need."""
    connection.execute(text("SET LOCAL statement_timeout = 0"))
    driver: Any = connection.connection.driver_connection
    if hasattr(driver, "silent_seconds"):
        driver.silent_seconds = None


def _limit_silence(engine: Engine) -> None:
    """Have connections that are closed when the server says nothing. Raises ImportError without the driver."""
    limited = _limited_connection()

    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, args: Any, options: Any) -> Any:
        return limited.connect(*args, **options)

    @event.listens_for(engine, "checkin")
    def _rest(connection: Any, _record: Any) -> None:
        if connection is not None:
            connection.silent_seconds = PING_SECONDS  # the pool asks before it hands a connection out

    @event.listens_for(engine, "checkout")
    def _work(connection: Any, _record: Any, _proxy: Any) -> None:
        connection.silent_seconds = SILENT_SECONDS


def _limited_connection() -> type[psycopg.Connection[Any]]:
    import psycopg  # only there with the extra `postgres`

    class Limited(psycopg.Connection[Any]):
        """psycopg's connection, except that one wait of it ends. `silent_seconds` of None is without a limit."""

        silent_seconds: float | None = PING_SECONDS

        def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
            try:
                return super().wait(_limited(gen, self.silent_seconds), *args, **options)
            except _Silence:
                self.close()  # an answer that comes later would be taken for that of the next statement
                raise psycopg.OperationalError(
                    f"the server did not answer within {self.silent_seconds:g} s; is it stopped or cut off?"
                ) from None

    return Limited


class _Silence(Exception):
    """Never seen outside of this module."""


def _limited(waiting: Generator[Any, Any, Any], seconds: float | None) -> Generator[Any, Any, Any]:
    """psycopg's generators say what they wait for and are told what is ready; ten times a second, that nothing is."""
    deadline = None if seconds is None else time.monotonic() + seconds
    try:
        wanted = next(waiting)
        while True:
            ready = yield wanted
            if not ready and deadline is not None and time.monotonic() > deadline:
                raise _Silence
            wanted = waiting.send(ready)
    except StopIteration as done:
        return done.value
    finally:
        waiting.close()
