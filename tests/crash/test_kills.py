"""Two gateways on one registry and store are killed (SIGKILL) at random moments under operators who never stop.

After every kill the registry opens, whatever was acknowledged is there, no alias leads to anything but a ready version,
and every byte of every version is what it was; the other gateway goes on without an error. When both are dead, the
doctor finds nothing that a client could have seen, and one repair leaves nothing at all. LONG_TESTS=1 kills 200 times
on each database instead of 14 times, and on a bucket too, and says what the kills hit.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from loradock_adapters.digest import folder_digest
from loradock_adapters.doctor import examine
from loradock_adapters.registry import Registry, VersionState
from loradock_adapters.store import Store, open_store
from tests.adapters.making import lora_config, write_adapter, write_base
from tests.crash.operator import Adapters, Operator
from tests.postgres import Postgres
from tests.seaweed import Seaweed

LONG = bool(os.environ.get("LONG_TESTS"))
KILLS = 200 if LONG else 14
KEY = "ld-crash-admin-key-0123456789"
# Traces of a crash that no client can see. Anything else the doctor finds is a failure.
HARMLESS = {"half_written", "half_uploaded", "orphan_blob", "unfinished_version"}
PERIOD_SECONDS = (0.05, 2.0)  # bounds for what is measured
PATIENCE_SECONDS = 60.0


@dataclass(slots=True)
class Gateway:
    pid: int
    url: str

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while Path(f"/proc/{self.pid}").exists():
            assert time.monotonic() < deadline, "a killed process is still there"
            time.sleep(0.001)


@dataclass(slots=True)
class World:
    """One registry and store, the operators of four names that share some bytes, and what the kills hit."""

    folder: Path
    url: str
    artifacts: str
    base: Path
    zygote: subprocess.Popen[str]
    operators: list[Operator]
    dice: random.Random
    hit: Counter[str] = field(default_factory=Counter)
    traces: Counter[str] = field(default_factory=Counter)

    @property
    def store(self) -> Store:
        return open_store(self.artifacts, self.folder / "cache")

    def start(self, count: int) -> list[Gateway]:
        flags = {
            "home": str(self.folder / "home"),
            "port": 0,
            "model": str(self.base),
            "admin_key": KEY,
            "registry_url": self.url,
            "artifacts": self.artifacts,
            "engine_url": f"unix:{self.folder}/nobody.sock",
        }
        assert self.zygote.stdin is not None
        assert self.zygote.stdout is not None
        self.zygote.stdin.write((json.dumps({"flags": flags, "base": str(self.base)}) + "\n") * count)
        self.zygote.stdin.flush()
        lines = [self.zygote.stdout.readline() for _ in range(count)]
        assert all(lines), "a gateway did not start; its error is above"
        return [Gateway(**json.loads(line)) for line in lines]

    @contextmanager
    def working(self, gateways: list[Gateway]) -> Iterator[dict[int, list[Operator]]]:
        """Inside, the operators work, divided between the gateways; yields who works on which (by pid)."""
        self.dice.shuffle(self.operators)
        share = {gateway.pid: self.operators[index :: len(gateways)] for index, gateway in enumerate(gateways)}
        stop = threading.Event()
        threads = [
            threading.Thread(target=operator.work, args=(gateway.url, KEY, stop))
            for gateway in gateways
            for operator in share[gateway.pid]
        ]
        for thread in threads:
            thread.start()
        try:
            yield share
        finally:
            stop.set()
            for thread in threads:
                thread.join(PATIENCE_SECONDS)
        for operator in self.operators:
            if operator.failure:
                raise operator.failure

    def require_sound(self, dead: list[Operator]) -> None:
        """What holds after a kill, whoever else goes on; of the operators whose gateway is dead, to the letter."""
        registry = Registry.open(self.url)
        try:
            assert registry.damage() == ()
            catalogue = registry.catalogue()
            for adapter in catalogue.adapters.values():
                for alias in adapter.aliases.values():
                    states = {adapter.versions[version].state for version in alias.split.versions}
                    assert states == {VersionState.READY}
                for version in adapter.versions.values():
                    if version.state in (VersionState.READY, VersionState.RETIRED):
                        self._require_bytes(registry, version.ref.name, version.ref.version, version.digest)
            for operator in dead:
                operator.require(catalogue.adapters.get(operator.name))
        finally:
            registry.close()

    def _require_bytes(self, registry: Registry, name: str, version: int, digest: str) -> None:
        try:
            self.store.verify(digest)
        except Exception:
            now = registry.catalogue().adapters.get(name)  # somebody alive may have deleted it meanwhile
            if now is not None and version in now.versions:
                raise

    def require_nothing_to_mend(self, *, repair: bool) -> None:
        """With every gateway dead: only harmless traces, all of which one repair removes; every blob is sound."""
        registry, uploads = Registry.open(self.url), self.folder / "home/tmp"
        try:
            found = examine(registry, self.store, uploads, age_seconds=0, repair=repair)
            self.traces.update(finding.code for finding in found)
            assert {finding.code for finding in found} <= HARMLESS, found
            if repair:
                assert examine(registry, self.store, uploads, age_seconds=0) == ()
        finally:
            registry.close()
        for digest in self.store.digests():
            self.store.verify(digest)


@pytest.fixture(params=["sqlite", "postgresql", *(["postgresql and bucket"] if LONG else [])])
def world(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    url, artifacts = f"sqlite:///{tmp_path}/registry.db", str(tmp_path / "home/store")
    if request.param != "sqlite":
        cluster: Postgres = request.getfixturevalue("postgres")
        url = cluster.new_database()
    if request.param == "postgresql and bucket":
        seaweed: Seaweed = request.getfixturevalue("seaweed")
        artifacts = f"s3://{seaweed.new_bucket()}/adapters"
        for name, value in seaweed.environment.items():
            monkeypatch.setenv(name, value)
    seed = int(os.environ.get("CRASH_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
    print(f"CRASH_SEED={seed}")  # noqa: T201 shown when it fails; only the times are not the same again
    dice = random.Random(seed)
    adapters = _adapters(tmp_path)
    operators = [Operator(f"bot-{n}", adapters, random.Random(dice.random())) for n in range(4)]
    zygote = subprocess.Popen(
        [sys.executable, "-m", "tests.crash.zygote"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with zygote:
        try:
            yield World(tmp_path, url, artifacts, write_base(tmp_path), zygote, operators, dice)
        finally:
            zygote.kill()


def _adapters(folder: Path) -> Adapters:
    """Five adapters that the base model takes, by digest."""
    made = {}
    for alpha in range(1, 6):
        source = write_adapter(folder / f"adapter-{alpha}", config=lora_config(lora_alpha=alpha))
        made[folder_digest(source)] = {path.name: path.read_bytes() for path in source.iterdir()}
    return made


@pytest.mark.timeout(1800 if LONG else 600)
def test_nothing_is_lost_and_nothing_half_done_is_seen_when_gateways_are_killed(world: World) -> None:
    period = _measure(world)
    kills = 0
    while kills < KILLS:
        first, second = world.start(2)
        with world.working([first, second]) as share:
            time.sleep(world.dice.uniform(0, period))
            first.kill()
            world.hit.update(operator.doing or "nothing" for operator in share[first.pid])
            survivors = share[second.pid]
            before = sum(operator.done for operator in survivors)
            world.require_sound(dead=[])
            _wait_for_work(survivors, before)
            time.sleep(world.dice.uniform(0, period))
            second.kill()
            world.hit.update(operator.doing or "nothing" for operator in survivors)
        kills += 2
        world.require_sound(dead=world.operators)
        world.require_nothing_to_mend(repair=world.dice.random() < 0.5)
    print(f"{kills} kills, period {period:.3f} s, hit {dict(world.hit)}, traces {dict(world.traces)}")  # noqa: T201
    assert len(world.hit) > 3, "kills were meant to land in many kinds of work"
    assert not LONG or world.traces.keys() >= {"half_uploaded", "unfinished_version"}, (
        "kills were meant to leave traces"
    )


def _measure(world: World) -> float:
    """How long an operator takes to do everything about once."""
    (gateway,) = world.start(1)
    began = time.monotonic()
    with world.working([gateway]):
        while sum(operator.done for operator in world.operators) < 10 * len(world.operators):
            assert all(operator.failure is None for operator in world.operators)
            time.sleep(0.005)
        period = time.monotonic() - began
    gateway.kill()
    low, high = PERIOD_SECONDS
    return min(max(period, low), high)


def _wait_for_work(survivors: list[Operator], before: int) -> None:
    """The other gateway's death holds nobody up."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while sum(operator.done for operator in survivors) <= before:
        if any(operator.failure for operator in survivors):
            return  # `working` raises it
        assert time.monotonic() < deadline, "the gateway that lives does nothing any more"
        time.sleep(0.001)
