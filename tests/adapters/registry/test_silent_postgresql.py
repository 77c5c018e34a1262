"""A PostgreSQL that is frozen (SIGSTOP), slow, or has no connection left: each call ends with an error that says so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from sqlalchemy import select, text
from sqlalchemy.engine import make_url

from loradock_adapters.errors import RegistryError
from loradock_adapters.registry import Registry, postgresql
from loradock_adapters.registry.database import Database
from loradock_adapters.registry.tables import StateRow
from tests.adapters.registry.making import register
from tests.postgres import Postgres, running_postgres

ENOUGH_SECONDS = 30.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Postgres]:
    """Of this module's own, which stops it."""
    with running_postgres() as started:
        yield started


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a limit that a slow machine breaks does no harm: a ping that fails is followed by a new connection."""
    monkeypatch.setattr(postgresql, "PING_SECONDS", 0.6)


@pytest.fixture
def url(cluster: Postgres) -> str:
    return cluster.new_database() + "&connect_timeout=2"  # two is the least that libpq takes


def fails(call: Callable[[], object], match: str) -> None:
    """It does, and in a time that does not depend on when the server goes on."""
    found: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except RegistryError as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(ENOUGH_SECONDS)
    assert not thread.is_alive(), "it waits for the frozen server"
    assert found, "it went through"
    assert match in str(found[0])


def test_reads_and_changes_end_while_it_is_frozen_and_nothing_of_them_is_done_later(
    cluster: Postgres, url: str
) -> None:
    registry = Registry.open(url)
    register(registry, "bot", 1)
    revision = registry.revision()
    with cluster.frozen():
        fails(registry.catalogue, "timeout")  # the pool's connection is found dead, and no new one can be had
        fails(lambda: register(registry, "late", 2), "timeout")
        fails(registry.listen, "timeout")
    assert registry.revision() == revision
    assert set(registry.catalogue().adapters) == {"bot"}
    register(registry, "late", 2)
    registry.close()


def test_a_change_that_had_begun_when_it_froze_ends_and_is_rolled_back(
    cluster: Postgres, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database.open(url)
    before = _revision(database)
    monkeypatch.setattr(postgresql, "SILENT_SECONDS", 3.0)
    begun, frozen = threading.Event(), threading.Event()

    def change() -> None:
        with database.write() as session:
            begun.set()
            frozen.wait(ENOUGH_SECONDS)
            session.execute(text("SELECT 1"))

    def freeze() -> None:
        begun.wait(ENOUGH_SECONDS)
        stack.enter_context(cluster.frozen())
        frozen.set()

    with ExitStack() as stack:
        thread = threading.Thread(target=freeze)
        thread.start()
        fails(change, "did not answer within")
        thread.join()
    monkeypatch.undo()
    assert _revision(database) == before
    with database.write():  # nobody holds the lock of writers
        pass
    assert _revision(database) == before + 1
    database.close()


def test_who_begins_a_change_and_goes_silent_loses_the_lock_of_all_writers(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = Database.open(url)  # with the time that there is otherwise, in which it also makes the tables
    before = _revision(two)
    monkeypatch.setattr(postgresql, "IDLE_SECONDS", 0.6)
    one = Database.open(url)

    def change_and_wait() -> None:
        with one.write() as session:
            with two.write():  # waits for the lock until the server takes it away
                pass
            session.execute(text("SELECT 1"))

    with pytest.raises(RegistryError, match="idle-in-transaction"):
        change_and_wait()
    assert _revision(one) == before + 1
    one.close()
    two.close()


def _revision(database: Database) -> int:
    with database.read() as session:
        return session.scalars(select(StateRow.revision)).one()


def test_the_server_itself_ends_what_takes_too_long_but_no_migration(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql, "STATEMENT_SECONDS", 2.0)
    database = Database.open(url)
    with pytest.raises(RegistryError, match="statement timeout"), database.read() as session:
        session.execute(text("SELECT pg_sleep(60)"))
    database.close()
    engine = postgresql.postgresql_engine(make_url(url), 5)
    monkeypatch.setattr(postgresql, "SILENT_SECONDS", 2.0)
    with engine.begin() as connection:
        postgresql.take_your_time(connection)
        connection.execute(text("SELECT pg_sleep(3)"))
    engine.dispose()


def test_a_pool_without_a_connection_left_is_an_error_too(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql, "POOL_SECONDS", 0.6)
    database = Database.open(url)
    held = [database._engine.connect() for _ in range(15)]
    with pytest.raises(RegistryError, match="timed out"):
        _revision(database)
    for connection in held:
        connection.close()
    database.close()
