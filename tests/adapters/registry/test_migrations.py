"""Migrations: they give the tables the code expects, from a wheel too, and leave the logging alone."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, inspect

from loradock_adapters.errors import RegistryError
from loradock_adapters.names import AdapterRef
from loradock_adapters.registry import Registry, Split, VersionState
from loradock_adapters.registry.database import Database
from loradock_adapters.registry.key_secrets import sha256_of
from loradock_adapters.registry.tables import Table
from tests.adapters.registry.making import ME, facts, register

ROOT = Path(__file__).parents[3]


def test_a_migrated_database_has_exactly_the_tables_of_the_code(url: str) -> None:
    Registry.open(url).close()
    with connected(url) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []


def test_what_an_earlier_release_wrote_is_all_there_after_the_migration(url: str, tmp_path: Path) -> None:
    (tmp_path / "deep/down").mkdir(parents=True)
    migrate(url, "0001")
    now = "2026-01-31 17:05:59.000000+00:00"
    with connected(url) as connection:
        run = connection.exec_driver_sql
        run("UPDATE registry_state SET revision = 7")
        run(f"INSERT INTO adapters VALUES ('bot', 4, '{now}', NULL), ('old', 2, '{now}', '{now}')")
        for name, number, deleted in (("bot", 1, "NULL"), ("bot", 2, "NULL"), ("bot", 3, f"'{now}'")):
            digest = f"{number:064x}"
            run(
                f"INSERT INTO adapter_versions VALUES ('{name}', {number}, '{digest}', 9, 8, '[]', '{'b' * 64}', "
                f"'upload', '{{}}', '{now}', 'me', {deleted})"
            )
        run("INSERT INTO adapter_aliases VALUES ('bot', 'live', 2), ('bot', 'canary', 1)")
        scopes = '["admin", "inference"]'
        hashed = sha256_of("ld-old").hex()
        run(f"INSERT INTO api_keys VALUES ('key-0123456789ab', 'app', '{scopes}', 'ld', '{hashed}', '{now}', NULL)")
        connection.commit()

    registry = Registry.open(url)
    (adapter,) = registry.catalogue().adapters.values()
    assert (adapter.name, sorted(adapter.versions), adapter.pinned_at) == ("bot", [1, 2], None)
    assert {version.state for version in adapter.versions.values()} == {VersionState.READY}
    assert {name: str(alias.split) for name, alias in adapter.aliases.items()} == {"live": "2", "canary": "1"}
    assert registry.revision() == 7
    assert registry.pin("bot", by=ME)
    assert registry.catalogue().adapters["bot"].pinned_at is not None
    assert register(registry, "bot", 3).ref.version == 4, "the bytes of a deleted version get a new number"
    assert str(registry.aliases.rollback("bot", by=ME)) == "2"
    held = registry.keys.ring().find("ld-old", datetime.now(UTC))
    assert held is not None
    assert (held.key.scopes, held.key.settings.adapters, held.key.revision) == (frozenset({"admin", "infer"}), None, 7)
    registry.close()


def test_the_way_back_to_an_earlier_release_keeps_what_it_knows_and_leads_forth_again(url: str) -> None:
    registry = Registry.open(url)
    for number in (1, 2, 3):
        register(registry, "bot", number)
    registry.aliases.set("bot", "live", Split.of({2: 90, 3: 10}), by=ME)
    registry.aliases.set("bot", "canary", Split.to(3), by=ME)
    registry.versions.retire(AdapterRef("bot", 1), by=ME)
    registry.versions.stage("half", facts(1), by=ME)
    registry.pin("bot", by=ME)
    revision = registry.revision()
    registry.close()

    Database.downgrade(url, "0002")
    with connected(url) as connection:
        aliases = connection.exec_driver_sql("SELECT alias, version FROM adapter_aliases ORDER BY alias").all()
        served = connection.exec_driver_sql("SELECT number FROM adapter_versions WHERE deleted_at IS NULL").all()
    assert [tuple(row) for row in aliases] == [("canary", 3), ("live", 2)]
    assert sorted(number for (number,) in served) == [2, 3]

    again = Registry.open(url)
    bot = again.catalogue().adapters["bot"]
    assert (sorted(bot.versions), str(bot.aliases["live"].split), again.revision()) == ([2, 3], "2", revision)
    assert bot.pinned_at is not None
    assert register(again, "bot", 9).ref.version == 4
    again.close()


def test_the_way_back_opens_nothing_that_was_closed(url: str) -> None:
    registry = Registry.open(url)
    free, _ = registry.keys.create({"name": "free", "scopes": ["admin", "infer"]}, by=ME)
    registry.keys.rotate(free.id, by=ME)
    registry.keys.create({"name": "passing", "expires_in": 60}, by=ME)
    registry.keys.create({"name": "bound", "adapters": ["a*"]}, by=ME)
    registry.close()
    Database.downgrade(url, "0009")
    with connected(url) as connection:
        rows = connection.exec_driver_sql("SELECT name, CAST(scopes AS TEXT), revoked_at FROM api_keys").all()
    found = {name: (json.loads(scopes), revoked is None) for name, scopes, revoked in rows}
    assert found == {
        "free": (["admin", "inference"], True),
        "passing": (["inference"], False),
        "bound": (["inference"], False),
    }


def test_all_the_way_down_leaves_nothing(url: str) -> None:
    registry = Registry.open(url)
    register(registry, "bot", 1)
    registry.close()
    Database.downgrade(url, "base")
    with connected(url) as connection:
        assert inspect(connection).get_table_names() == ["alembic_version"]
    Registry.open(url).close()


def test_a_release_that_never_was_is_no_way_back(url: str) -> None:
    with pytest.raises(RegistryError, match="0815"):
        Database.downgrade(url, "0815")
    registry = Registry.open(url)
    register(registry, "bot", 1)
    registry.close()


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    engine = create_engine(url)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def migrate(url: str, revision: str) -> None:
    """As an earlier release did, whose newest migration this was."""
    with connected(url) as connection, connection.begin():
        config = Config()
        config.set_main_option("script_location", "loradock_adapters.registry:migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def test_the_database_is_in_wal_mode(tmp_path: Path) -> None:
    Registry.open(f"sqlite:///{tmp_path}/registry.db").close()
    database = sqlite3.connect(tmp_path / "registry.db")
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database.close()


def test_opening_leaves_the_logging_configuration_alone(tmp_path: Path) -> None:
    mine, root = logging.getLogger("somebody.elses"), logging.getLogger()
    before = (root.level, list(root.handlers), mine.disabled, logging.getLogger("alembic").level)
    Registry.open(f"sqlite:///{tmp_path}/registry.db").close()
    assert (root.level, list(root.handlers), mine.disabled, logging.getLogger("alembic").level) == before


def test_a_database_of_a_newer_release_is_refused_and_not_touched(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/registry.db"
    Registry.open(url).close()
    database = sqlite3.connect(tmp_path / "registry.db")
    with database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(RegistryError, match="newer LoRADock"):
        Registry.open(url)
    assert database.execute("SELECT version_num FROM alembic_version").fetchone() == ("9999",)
    database.close()


def test_a_failing_migration_leaves_the_database_as_it_was(tmp_path: Path) -> None:
    # A table that is in the way makes the first migration fail half-way.
    database = sqlite3.connect(tmp_path / "registry.db")
    with database:
        database.execute("CREATE TABLE api_keys (mine TEXT)")
    with pytest.raises(RegistryError, match="api_keys"):
        Registry.open(f"sqlite:///{tmp_path}/registry.db")
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert tables == {"api_keys"}
    database.close()


USE = """
import sys, loradock_adapters
from loradock_adapters.names import AdapterRef
from loradock_adapters.registry import Registry, Split, VersionState
from loradock_adapters.registry.database import Database
assert loradock_adapters.__file__.startswith(sys.argv[1]), loradock_adapters.__file__
print(Registry.open(f"sqlite:///{sys.argv[1]}/registry.db").revision())
"""


def test_migrations_work_from_a_built_wheel(tmp_path: Path) -> None:
    from hatchling.builders.wheel import WheelBuilder

    wheel = next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path / "dist")))
    installed = tmp_path / "100% installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    ran = subprocess.run(
        [sys.executable, "-c", USE, str(installed)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout.strip()) == (0, "0"), ran.stderr
