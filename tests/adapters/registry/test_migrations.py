"""Migrations: they give the tables the code expects, from a wheel too, and leave the logging alone."""

from __future__ import annotations

import logging
import os
import sqlite3
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from loradock_adapters.errors import RegistryError
from loradock_adapters.registry import Registry
from loradock_adapters.registry.tables import Table
from tests.adapters.registry.making import ME

ROOT = Path(__file__).parents[3]


def test_a_migrated_database_has_exactly_the_tables_of_the_code(tmp_path: Path) -> None:
    Registry.open(f"sqlite:///{tmp_path}/registry.db").close()
    engine = create_engine(f"sqlite:///{tmp_path}/registry.db")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []
    engine.dispose()


def test_what_an_earlier_release_wrote_is_all_there_after_the_migration(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/registry.db"
    migrate(url, "0001")
    database = sqlite3.connect(tmp_path / "registry.db")
    now = "2026-01-31 17:05:59.000000"
    with database:
        database.execute("UPDATE registry_state SET revision = 7")
        database.execute("INSERT INTO adapters VALUES ('bot', 3, ?, NULL)", (now,))
        for number in (1, 2):
            database.execute(
                "INSERT INTO adapter_versions VALUES ('bot', ?, ?, 9, 8, '[]', ?, 'upload', '{}', ?, 'me', NULL)",
                (number, f"{number:064x}", "b" * 64, now),
            )
        database.execute("INSERT INTO adapter_aliases VALUES ('bot', 'live', 2)")
    database.close()

    registry = Registry.open(url)
    (adapter,) = registry.catalogue().adapters.values()
    assert (adapter.name, sorted(adapter.versions), adapter.aliases["live"].split.only) == ("bot", [1, 2], 2)
    assert (adapter.pinned_at, registry.revision()) == (None, 7)
    assert registry.pin("bot", by=ME)
    assert registry.catalogue().adapters["bot"].pinned_at is not None
    registry.close()


def migrate(url: str, revision: str) -> None:
    """As an earlier release did, whose newest migration this was."""
    engine = create_engine(url)
    with engine.connect() as connection, connection.begin():
        config = Config()
        config.set_main_option("script_location", "loradock_adapters.registry:migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


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
from loradock_adapters.registry import Registry
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
