"""What SQLite is told on every connection: WAL, a busy timeout, foreign keys, and to flush what it acknowledges."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from loradock_adapters.errors import RegistryError
from loradock_adapters.registry import Registry
from loradock_adapters.registry.database import BUSY_TIMEOUT_SECONDS, Database
from tests.adapters.registry.making import ME, register


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "registry.db"


@pytest.fixture
def registry(file: Path) -> Iterator[Registry]:
    registry = Registry.open(f"sqlite:///{file}")
    yield registry
    registry.close()


def test_every_connection_has_wal_timeout_foreign_keys_and_full_flushes(file: Path) -> None:
    database = Database.open(f"sqlite:///{file}")
    wanted = {
        "journal_mode": "wal",
        "busy_timeout": BUSY_TIMEOUT_SECONDS * 1000,
        "foreign_keys": 1,
        "synchronous": 2,  # FULL
    }
    for session_of in (database.read, database.write):
        with session_of() as session:
            assert {name: session.execute(text(f"PRAGMA {name}")).scalar_one() for name in wanted} == wanted
    database.close()


def test_a_row_that_refers_to_nothing_is_refused(file: Path) -> None:
    database = Database.open(f"sqlite:///{file}")
    row = "INSERT INTO adapter_alias_steps VALUES ('nobody', 'live', 1, NULL, '2026-01-01', 'me')"
    with pytest.raises(RegistryError) as caught, database.write() as session:
        session.execute(text(row))
    assert isinstance(caught.value.__cause__, IntegrityError)
    database.close()


def test_writers_wait_for_another_process_and_readers_do_not(registry: Registry, file: Path) -> None:
    register(registry, "bot", 1)
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    # Nobody ends the other's change meanwhile: a reader that waited for it would be refused.
    assert registry.catalogue().resolve("bot").ref.version == 1
    ending = threading.Event()

    def end() -> None:
        ending.set()
        other.execute("ROLLBACK")

    release = threading.Timer(0.5, end)
    release.start()
    registry.pin("bot", by=ME)
    assert ending.is_set(), "the writer did not wait"
    release.join()
    other.close()
