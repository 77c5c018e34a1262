"""`python -m loadtest.registry`: measure on each database, print the table, write JSON."""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from loadtest.processor import processor
from loadtest.registry.measure import Row, measure

DATABASES = ("sqlite", "postgresql")


def main() -> int:
    options = _options()
    console = Console(stderr=True)
    found: dict[str, list[Row]] = {}
    for database in options.databases:
        say = functools.partial(console.print, f"{database}:")
        with _empty(database, options.postgres) as url:
            found[database] = measure(url, options.adapters, options.versions, options.repeat, say)
    report = {
        "when": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "python": platform.python_version()},
        "adapters": options.adapters,
        "versions": options.versions,
        "milliseconds": {database: [asdict(row) for row in rows] for database, rows in found.items()},
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "registry.json").write_text(json.dumps(report, indent=2) + "\n")
    Console().print(_table(found, f"{options.adapters} adapters, {options.versions} versions each: ms"))
    return 0


@contextmanager
def _empty(database: str, url: str | None) -> Iterator[str]:
    """An empty database: a new file, the one that was named, or one of a PostgreSQL of our own that flushes to disk."""
    if database == "sqlite":
        with tempfile.TemporaryDirectory(prefix="loradock-bench-registry-") as folder:
            yield f"sqlite:///{folder}/registry.db"
    elif url:
        yield url
    else:
        from tests.postgres import running_postgres

        with running_postgres(durable=True) as cluster:
            yield cluster.new_database()


def _table(found: dict[str, list[Row]], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("work")
    for database in found:
        for column in ("p50", "p99", "worst"):
            table.add_column(f"{database} {column}", justify="right")
    for rows in zip(*found.values(), strict=True):
        cells = [f"{value:.1f}" for row in rows for value in (row.p50, row.p99, row.worst)]
        table.add_row(f"{rows[0].work} ({rows[0].runs})", *cells)
    return table


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.registry", description=__doc__)
    parser.add_argument("--adapters", type=int, default=10_000)
    parser.add_argument("--versions", type=int, default=3, help="of each adapter, at least 2")
    parser.add_argument("--repeat", type=int, default=300, help="runs of each kind of work")
    parser.add_argument("--databases", nargs="+", choices=DATABASES, default=DATABASES)
    parser.add_argument("--postgres", metavar="URL", help="an empty database there, instead of a PostgreSQL of our own")
    parser.add_argument("--out", type=Path, default=Path("var/bench"))
    options = parser.parse_args()
    if options.versions < 2 or options.adapters < 2 or options.repeat < 10:
        parser.error("at least 2 adapters, 2 versions and 10 runs")
    return options


if __name__ == "__main__":
    raise SystemExit(main())
