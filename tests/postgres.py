"""A real PostgreSQL in a temporary folder: unix socket only, never as root, gone at the end.

Unless asked to, it flushes nothing to disk, which only matters to what survives a power cut.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg
import pytest

FIX = "apt-get install -y --no-install-recommends postgresql-15"
START_SECONDS = 60.0
_DEBIAN = Path("/usr/lib/postgresql")  # which keeps server programs out of PATH


@dataclass(slots=True)
class Postgres:
    """A running cluster; `log` is the server's own."""

    folder: Path
    log: Path
    command: list[str]
    user: str | None
    process: subprocess.Popen[bytes] | None = None
    _made: int = field(default=0)

    def new_database(self) -> str:
        """Make an empty database and return its SQLAlchemy URL."""
        self._made += 1
        name = f"test_{self._made}"
        with self.connect("postgres") as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://postgres@/{name}?host={self.folder}"

    def start(self) -> None:
        """Start it, again if it was stopped, and wait until it answers."""
        with self.log.open("ab") as sink:
            self.process = subprocess.Popen(
                self.command, user=self.user, cwd=self.folder, stdout=sink, stderr=subprocess.STDOUT
            )
        _wait(self, self.process)

    def stop(self) -> None:
        """At once, without a last checkpoint."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(START_SECONDS)
            self.process = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Every process of it stopped (SIGSTOP): the kernel goes on taking connections and bytes, nobody answers."""
        assert self.process is not None
        parent = psutil.Process(self.process.pid)
        parent.suspend()  # first, so that it makes no more
        while parent.status() != psutil.STATUS_STOPPED:  # it may be making one just now
            time.sleep(0.001)
        stopped = [parent, *parent.children()]
        for process in stopped[1:]:
            process.suspend()
        try:
            yield
        finally:
            for process in reversed(stopped):  # the parent last: it buries those who had just ended
                process.resume()

    def connect(self, database: str) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(host=str(self.folder), user="postgres", dbname=database, autocommit=True)


def postgres_program(name: str) -> str:
    """The newest installed one. Without it tests skip on a developer's machine and fail in CI."""
    found = sorted(_DEBIAN.glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    path = str(found[-1]) if found else shutil.which(name)
    if path is None:
        message = f"{name} is not installed; {FIX}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return path


@contextmanager
def running_postgres(*, durable: bool = False) -> Iterator[Postgres]:
    """Start a cluster of its own, wait until it answers, stop it at the end. `durable`: it flushes, as a real one."""
    initdb, postgres = postgres_program("initdb"), postgres_program("postgres")
    folder = Path(tempfile.mkdtemp(prefix="ld-pg-"))
    user = "nobody" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
    try:
        if user:
            shutil.chown(folder, user)
        folder.chmod(0o755)
        data, log = folder / "data", folder / "log"
        quiet = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync"]
        subprocess.run([initdb, *quiet, str(data)], user=user, cwd=folder, check=True, capture_output=True)
        options = {
            "listen_addresses": "",
            "unix_socket_directories": folder,
            "fsync": "on" if durable else "off",
            "max_connections": 200,
        }
        flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        cluster = Postgres(folder, log, [postgres, "-D", str(data), *flags], user)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(cluster: Postgres, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            cluster.connect("postgres").close()
            return
        except psycopg.OperationalError:
            alive = process.poll() is None and time.monotonic() < deadline
            assert alive, f"PostgreSQL did not start:\n{cluster.log.read_text(errors='replace')}"
            time.sleep(0.05)
