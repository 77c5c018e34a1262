"""A real Redis in a temporary folder: a unix socket only, nothing kept on disk, gone at the end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

FIX = "apt-get install -y --no-install-recommends redis-server"
START_SECONDS = 30.0


@dataclass(slots=True)
class RedisServer:
    """A server that can be stopped and started again, empty."""

    program: str
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.folder / "redis.sock"

    def url(self, database: int = 0) -> str:
        return f"unix://{self.socket}?db={database}"

    def start(self) -> None:
        options = {"port": "0", "unixsocket": str(self.socket), "save": "", "appendonly": "no", "dir": str(self.folder)}
        flags = [part for name, value in options.items() for part in (f"--{name}", value)]
        with (self.folder / "log").open("ab") as sink:
            self.process = subprocess.Popen([self.program, *flags], stdout=sink, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "log").read_text(errors="replace")
            assert time.monotonic() < deadline, "Redis did not start"
            time.sleep(0.02)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(START_SECONDS)
            self.process = None
            self.socket.unlink(missing_ok=True)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stopped (SIGSTOP): the kernel goes on taking connections and bytes, nobody answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url()) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


@contextmanager
def running_redis() -> Iterator[RedisServer]:
    """Without the program tests skip on a developer's machine and fail in CI."""
    program = shutil.which("redis-server")
    if program is None:
        message = f"redis-server is not installed; {FIX}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    folder = Path(tempfile.mkdtemp(prefix="ld-redis-"))
    server = RedisServer(program, folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
