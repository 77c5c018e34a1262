"""One SQL database with its migrations applied, and transactions on it: `read()` and `write()`.

It knows no adapter and no key; those are the tables' users. SQLite and PostgreSQL behave alike through it:
readers see one consistent snapshot, writers go one after the other.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, text, update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DisconnectionError, SQLAlchemyError
from sqlalchemy.orm import Session

from loradock_adapters.errors import RegistryError
from loradock_adapters.registry.listening import CHANNEL, Listener
from loradock_adapters.registry.postgresql import postgresql_engine, take_your_time
from loradock_adapters.registry.tables import StateRow

BUSY_TIMEOUT_SECONDS = 15
_MIGRATION_LOCK = 0x10AD0C  # any number, as long as every LoRADock uses the same
_migrating = threading.Lock()  # Alembic keeps the migration that runs in module globals


class Database:
    """Thread-safe; several processes may open the same one."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        sqlite = engine.dialect.name == "sqlite"
        self._readers = engine if sqlite else engine.execution_options(isolation_level="REPEATABLE READ")
        self._writers = engine.execution_options(sqlite_begin="IMMEDIATE") if sqlite else engine

    @classmethod
    def open(cls, url: str) -> Database:
        """Connect, create what is missing and migrate to the newest schema.

        Raises RegistryError if the URL is malformed, the database cannot be reached, or a newer LoRADock
        wrote it.
        """
        try:
            database = cls(_engine(make_url(url)))
            try:
                with database._writers.connect() as connection:
                    database._migrate(connection)
                    _require_sound(connection)
            except BaseException:
                database.close()
                raise
        except CommandError as error:
            raise RegistryError(
                f"registry {_shown(url)} has a schema this version does not know ({error}); "
                "it was written by a newer LoRADock: upgrade this one"
            ) from error
        except ImportError as error:
            raise RegistryError(
                f"registry {_shown(url)} needs a driver that is not installed ({error}); "
                "for PostgreSQL: pip install 'loradock[postgres]'"
            ) from error
        except (SQLAlchemyError, OSError) as error:
            raise RegistryError(f"registry {_shown(url)} cannot be opened: {error}") from error
        return database

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees one snapshot, whatever others commit meanwhile."""
        with _registry_errors(), Session(self._readers, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session alone among writers; leaving it commits, and the revision has grown by one.

        `session.info["revision"]` is what it has grown to.
        Whoever finds nothing to change calls `session.rollback()`; the revision then stays.
        """
        with _registry_errors(), Session(self._writers, expire_on_commit=False) as session:
            # First of all, because on PostgreSQL this row is the lock.
            grown = update(StateRow).values(revision=StateRow.revision + 1).returning(StateRow.revision)
            session.info["revision"] = session.scalars(grown).one()
            if self.notifies:
                session.execute(text("SELECT pg_notify(:channel, '')"), {"channel": CHANNEL})
            yield session
            session.commit()

    @contextmanager
    def aside(self) -> Iterator[Session]:
        """A session for what changes nothing of what is registered, how far some work is for instance; leaving it
        commits. The revision stays and nobody is told. Not alone among writers on PostgreSQL.
        """
        with _registry_errors(), Session(self._writers, expire_on_commit=False) as session:
            yield session
            session.commit()

    @property
    def notifies(self) -> bool:
        """Whether others are told of a change, rather than having to ask."""
        return self._engine.dialect.name == "postgresql"

    def listen(self) -> Listener:
        """Hear of others' changes from now on; only where `notifies`. Raises RegistryError."""
        with _registry_errors():
            return Listener(self._engine)

    def damage(self) -> tuple[str, ...]:
        """What SQLite's own checks find wrong, in its words; PostgreSQL looks after itself."""
        if self._engine.dialect.name != "sqlite":
            return ()
        with self.read() as session:
            pages = session.execute(text("PRAGMA integrity_check")).scalars()
            found = [line for line in pages if line != "ok"]
            for table, row, parent, _ in session.execute(text("PRAGMA foreign_key_check")):
                found.append(f"row {row} of {table} refers to a row of {parent} that is not there")
        return tuple(found)

    def snapshot(self, out: Path) -> None:
        """Copy the database into a new file, as it is at one moment. Raises RegistryError; PostgreSQL has pg_dump."""
        if self._engine.dialect.name != "sqlite":
            raise RegistryError("a PostgreSQL registry is backed up by pg_dump, see docs/storage.md")
        with _registry_errors():
            pooled = self._engine.raw_connection()
            try:
                pooled.cursor().execute("VACUUM INTO ?", (str(out),))
            except sqlite3.Error as error:
                raise RegistryError(f"the registry cannot be copied to {out}: {error}") from error
            finally:
                pooled.close()

    def close(self) -> None:
        self._engine.dispose()

    @classmethod
    def downgrade(cls, url: str, revision: str) -> None:
        """Take the schema back to what an earlier release knows; nothing else may be using the database.

        What that release has no place for is lost. Raises RegistryError.
        """
        database = cls.open(url)
        try:
            with _registry_errors(), database._writers.connect() as connection:
                database._migrate(connection, revision)
        except CommandError as error:
            raise RegistryError(f"registry {_shown(url)} cannot be taken back to {revision!r}: {error}") from error
        finally:
            database.close()

    def _migrate(self, connection: Connection, back_to: str | None = None) -> None:
        # All in one transaction under one lock, so two servers that start together do not trip each other.
        with _migrating, connection.begin():
            if connection.dialect.name == "postgresql":
                take_your_time(connection)
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            config = Config()
            # Found through the package, so it works from a wheel; no ini file and no logging set-up.
            config.set_main_option("script_location", "loradock_adapters.registry:migrations")
            config.attributes["connection"] = connection
            if back_to is None:
                command.upgrade(config, "head")
            else:
                command.downgrade(config, back_to)


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        return _sqlite(url)
    return postgresql_engine(url, BUSY_TIMEOUT_SECONDS)


def _require_sound(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        found = connection.execute(text("PRAGMA quick_check(1)")).scalar_one()
        connection.rollback()
        if found != "ok":
            raise RegistryError(f"the registry's database is damaged ({found}); restore a backup")


def _sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise RegistryError(
            f"registry {url!s} is not a file; an in-memory registry would be lost: write sqlite:////path/to/registry.db"
        )
    path = Path(url.database).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        sqlite3.connect(path).close()

    def connect() -> sqlite3.Connection:
        # `rw` makes no new file: one that somebody took away under a running server must not come back empty.
        return sqlite3.connect(
            f"{path.as_uri()}?mode=rw", uri=True, timeout=BUSY_TIMEOUT_SECONDS, check_same_thread=False
        )

    engine = create_engine(url, creator=connect)

    @event.listens_for(engine, "checkout")
    def _require_same_file(_connection: Any, record: Any, _proxy: Any) -> None:
        # What is written to a file without a name, or that another one has replaced, is lost without an error.
        if record.info.get("file") != _identity(path):
            raise DisconnectionError(f"{path} is not the file that was opened")

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, record: Any) -> None:
        record.info["file"] = _identity(path)
        # We begin transactions ourselves: Python's own way leaves reads and schema changes outside of them.
        connection.isolation_level = None
        _use_wal(connection)
        # FULL: what was acknowledged outlives a power cut too, which WAL's usual NORMAL does not promise.
        for pragma in ("synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        mode = connection.get_execution_options().get("sqlite_begin", "DEFERRED")
        connection.exec_driver_sql(f"BEGIN {mode}")

    return engine


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file has this name now; None if none has."""
    try:
        there = path.stat()
    except OSError:
        return None
    return there.st_dev, there.st_ino


def _use_wal(connection: Any) -> None:
    """SQLite's busy timeout does not cover the change of a new file to WAL, which another process may be making too."""
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@contextmanager
def _registry_errors() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        raise RegistryError(f"the registry's database failed: {getattr(error, 'orig', None) or error}") from error


def _shown(url: str) -> str:
    try:
        return make_url(url).render_as_string(hide_password=True)
    except SQLAlchemyError:
        return "(malformed URL)"
