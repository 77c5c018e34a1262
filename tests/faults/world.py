"""A gateway and a misbehaving engine, each a process of its own, and what the gateway holds of the world."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from loradock_adapters.base_model import BaseModel

TOKEN = "between-the-two"
KEY = "ld-faults-admin-key-0123456789"
PATIENCE_SECONDS = 30.0


@dataclass(slots=True)
class Engine:
    """The process, which is started again on the same port after it was killed."""

    base: BaseModel
    port: int = 0
    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.engine", str(self.port), self.base.name, self.base.digest],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def order(self, **said: str | None) -> None:
        """Have it say this of itself from now on: `state`, `usage`; or to those who follow the usage now: `publish`.
        `word` lets it finish what waits for the word.
        """
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(said) + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


@dataclass(slots=True)
class Gateway:
    """The process. `log` is what it wrote."""

    url: str
    process: subprocess.Popen[str]
    log: Path
    engine: Engine

    @property
    def address(self) -> tuple[str, int]:
        url = httpx.URL(self.url)
        return url.host, url.port or 80

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {KEY}"}

    def http(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=self.headers, trust_env=False, timeout=60, **options)

    def async_http(self, **options: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, headers=self.headers, trust_env=False, timeout=60, **options)

    def order(self, word: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def held(self) -> dict[str, int]:
        """Tasks, requests in flight, permits; and connections to the engine and from clients."""
        held: dict[str, int] = self.order("count")
        mine = [line for line in psutil.Process(self.process.pid).net_connections("tcp") if line.raddr]
        held["upstream"] = sum(line.raddr.port == self.engine.port for line in mine)
        held["clients"] = sum(line.laddr.port == self.address[1] for line in mine)
        return held

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", trust_env=False, timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    def records(self) -> list[dict[str, Any]]:
        """The log's lines that are JSON, which all are but a crash of the process."""
        whole, _, _ = self.log.read_text(errors="replace").rpartition("\n")  # what comes after it is being written
        lines = whole.splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def require_quiet(self, before: dict[str, int]) -> None:
        """Nothing is held that was not before."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while any(self.held()[what] > before[what] for what in before):
            assert time.monotonic() < deadline, f"held {self.held()}, before {before}"
            time.sleep(0.1)


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.02)


@contextmanager
def running_gateway(folder: Path, base: BaseModel, engine: Engine, **flags: Any) -> Iterator[Gateway]:
    """A gateway in front of this engine; its state lies in `folder`."""
    order = {
        "flags": {
            "home": str(folder),
            "port": 0,
            "model": str(base.folder),
            "admin_key": KEY,
            "engine_url": f"http://127.0.0.1:{engine.port}",
            **flags,
        },
        "base": str(base.folder),
        "token": TOKEN,
    }
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "gateway.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LORADOCK_")}
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.gateway_process", json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=sink,
            env=environment,
            text=True,
        )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said, log.read_text(errors="replace")
        gateway = Gateway(json.loads(said)["url"], process, log, engine)
        _limit(gateway)
        if engine.process is not None:
            eventually(gateway.ready)
        yield gateway
    finally:
        process.kill()
        process.communicate()


def _limit(gateway: Gateway) -> None:
    """Give the key a limit that nothing here reaches: without one nobody counts what is being answered."""
    with gateway.http() as http:
        (key,) = http.get("/admin/keys").json()["data"]
        if "max_concurrency" not in key["limits"]:
            changed = http.patch(f"/admin/keys/{key['id']}", json={"limits": {"max_concurrency": 100_000}})
            assert changed.is_success, changed.text


@contextmanager
def running_engine(base: BaseModel) -> Iterator[Engine]:
    engine = Engine(base)
    engine.start()
    try:
        yield engine
    finally:
        engine.kill()
