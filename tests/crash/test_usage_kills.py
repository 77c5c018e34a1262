"""Gateways are killed (SIGKILL) at random moments under clients who never stop, and who often leave.

Whatever the engine counted is in the ledger then, to the token and under the right key: nothing is lost and nothing is
there twice. The gateways are real processes; the engine is the scripted one with the engine's own feed, so that what it
counted can be read beside the ledger. LONG_TESTS=1 kills 150 times on each database instead of 4 times.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from loradock_adapters.base_model import BaseModel
from loradock_adapters.registry import Registry
from loradock_adapters.registry.usage import Sums
from loradock_adapters.registry.usage_report import Dimension, UsageQuery
from tests.adapters.making import write_base
from tests.crash.zygote import TOKEN
from tests.fakes.engine import FakeEngine, Reply, running_engine
from tests.postgres import Postgres

LONG = bool(os.environ.get("LONG_TESTS"))
KILLS = 150 if LONG else 4
CLIENTS = 6
KEY = "ld-crash-admin-key-0123456789"
PATIENCE_SECONDS = 60.0
COUNTED = ("requests", "aborted", "input_tokens", "output_tokens", "cached_tokens")


@dataclass(slots=True)
class World:
    """A registry, an engine, and two gateways on one home; clients ask whichever is there."""

    folder: Path
    url: str
    base: Path
    engine: FakeEngine
    zygote: subprocess.Popen[str]
    dice: random.Random
    gateways: list[tuple[int, str]] = field(default_factory=list)

    def start(self) -> None:
        flags = {
            "home": str(self.folder / "home"),
            "port": 0,
            "model": str(self.base),
            "admin_key": KEY,
            "registry_url": self.url,
            "engine_url": self.engine.address,
        }
        assert self.zygote.stdin is not None
        assert self.zygote.stdout is not None
        self.zygote.stdin.write(json.dumps({"flags": flags, "base": str(self.base)}) + "\n")
        self.zygote.stdin.flush()
        started = json.loads(self.zygote.stdout.readline())
        self.gateways.append((started["pid"], started["url"]))

    def kill(self) -> None:
        pid, _ = self.gateways.pop(self.dice.randrange(2))
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while Path(f"/proc/{pid}").exists():
            assert time.monotonic() < deadline, "a killed process is still there"
            time.sleep(0.001)

    def counted(self) -> Sums:
        """What the engine says."""
        found: Counter[str] = Counter()
        for record in list(self.engine.published):
            found["requests"] += 1
            found["aborted"] += record["finish_reason"] == "abort"
            found.update({name: record[name] for name in COUNTED[2:]})
        return Sums(**{name: found[name] for name in COUNTED})

    def written(self) -> dict[tuple[object, ...], Sums]:
        """What the ledger says, by key."""
        registry = Registry.open(self.url)
        try:
            groups = registry.usage_report.page(UsageQuery(by=(Dimension.KEY,)))
            names = {key.id: key.name for key in registry.keys.list()}
            return {(names.get(str(group.values[0]), group.values[0]),): group.sums for group in groups}
        finally:
            registry.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    url = f"sqlite:///{tmp_path}/registry.db"
    if request.param == "postgresql":
        cluster: Postgres = request.getfixturevalue("postgres")
        url = cluster.new_database()
    seed = int(os.environ.get("CRASH_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
    print(f"CRASH_SEED={seed}")  # noqa: T201 shown when it fails
    base = BaseModel.read(write_base(tmp_path))
    with ExitStack() as stack:
        socket = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ld-"))) / "engine.sock"
        said = {"name": base.name, "digest": base.digest}
        engine = stack.enter_context(running_engine(socket, token=TOKEN, base=said))
        zygote = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "tests.crash.zygote"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        )
        stack.callback(zygote.kill)
        yield World(tmp_path, url, base.folder, engine, zygote, random.Random(seed))


def ask(world: World, dice: random.Random, stop: threading.Event) -> None:
    """A client: whole answers and streams, half of which it leaves."""
    with httpx.Client(headers={"authorization": f"Bearer {KEY}"}, timeout=30, trust_env=False) as http:
        while not stop.is_set():
            body = {"model": "tiny", "prompt": "x", "stream": dice.random() < 0.7}
            try:
                _, url = dice.choice(world.gateways)
                with http.stream("POST", f"{url}/v1/completions", json=body) as answer:
                    for _ in answer.iter_bytes():
                        if body["stream"] and dice.random() < 0.1:
                            break
            except (httpx.TransportError, IndexError):
                time.sleep(0.01)


@pytest.mark.timeout(1800 if LONG else 600)
def test_the_ledger_has_what_the_engine_counted_however_often_gateways_are_killed(world: World) -> None:
    world.engine.enqueue(
        *(
            Reply(
                tokens=("a",) * world.dice.randint(1, 12),
                input_tokens=world.dice.randint(1, 500),
                pause=world.dice.choice((0, 0.001, 0.02)),
            )
            for _ in range(2000 * KILLS)
        )
    )
    stop = threading.Event()
    clients = [
        threading.Thread(target=ask, args=(world, random.Random(world.dice.random()), stop)) for _ in range(CLIENTS)
    ]
    world.start()
    world.start()
    for client in clients:
        client.start()
    for _ in range(KILLS):
        time.sleep(world.dice.uniform(0, 0.8))
        world.kill()
        world.start()
    stop.set()
    for client in clients:
        client.join(PATIENCE_SECONDS)
    counted = world.counted()
    assert counted.requests > 5 * KILLS, "clients were meant to be busy"
    assert counted.aborted, "clients were meant to leave"
    deadline = time.monotonic() + PATIENCE_SECONDS
    while world.written() != {("first admin",): world.counted()}:
        assert time.monotonic() < deadline, f"the ledger has {world.written()}, the engine counted {world.counted()}"
        time.sleep(0.1)
    time.sleep(1.2)  # whatever came twice would come now
    assert world.written() == {("first admin",): world.counted()}
    print(f"{KILLS} kills, {world.counted()}")  # noqa: T201
