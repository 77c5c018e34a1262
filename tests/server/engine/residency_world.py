"""Loader, artifacts and observer in one for a Residency: no vLLM and no files, but loads that take their time.

Faithful in what residency leans on: a preparation is given back exactly once, numbers are never used again, and every
step lets other tasks run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loradock_server.engine.residency import AdapterGone, AdapterUnfit, Prepared, Residency

SIZE = 100  # bytes of an adapter whose digest does not name another size, as "d1:250" does


class FakePrepared:
    def __init__(self, size_bytes: int, held: list[FakePrepared]) -> None:
        self.size_bytes = size_bytes
        self._held = held
        held.append(self)

    def close(self) -> None:
        self._held.remove(self)  # fails when it was closed before


class FakeEngine:
    """Loader, artifacts and observer in one; faithful in that loading takes time and numbers are never reused.

    `held` are the preparations that nobody has given back yet. A digest in `unprepared` cannot be prepared.
    """

    def __init__(self) -> None:
        self.loaded_ids: list[str] = []
        self.unloaded_ids: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.unfit: set[str] = set()
        self.gone: set[str] = set()
        self.unprepared: set[str] = set()
        self.events: list[tuple[Any, ...]] = []
        self.prepared: list[str] = []
        self.held: list[FakePrepared] = []
        self.most_held = 0

    async def prepare(self, adapter_id: str, folder: Path) -> FakePrepared:
        digest = folder.name
        if digest in self.unprepared:
            raise AdapterUnfit(f"{adapter_id} cannot be read")
        self.prepared.append(adapter_id)
        prepared = FakePrepared(int(digest.partition(":")[2] or SIZE), self.held)
        self.most_held = max(self.most_held, len(self.held))
        await asyncio.sleep(0)
        return prepared

    async def load(self, adapter_id: str, prepared: Prepared) -> int:
        assert prepared in self.held
        self.loaded_ids.append(adapter_id)
        await self.gate.wait()
        if adapter_id in self.unfit:
            raise AdapterUnfit(f"{adapter_id} has rank 999")
        return len(self.loaded_ids)

    async def unload(self, adapter_id: str, number: int) -> None:
        await asyncio.sleep(0)
        self.unloaded_ids.append(adapter_id)

    def fetch(self, digest: str) -> Path:
        if digest in self.gone:
            raise AdapterGone(f"blob {digest} is missing")
        return Path("/blobs") / digest

    def loaded(self, adapter_id: str, seconds: float, *, ok: bool) -> None:
        self.events.append(("loaded", adapter_id, ok))

    def evicted(self, adapter_id: str, *, for_room: bool) -> None:
        self.events.append(("evicted", adapter_id, for_room))


async def settled() -> None:
    """Until all that runs in the background is over."""
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)


async def until(holds: Callable[[], bool]) -> None:
    """However long a busy machine takes."""
    while not holds():
        await asyncio.sleep(0.005)


async def use(residency: Residency, adapter_id: str, size: int = SIZE) -> str:
    async with residency.lease(adapter_id, digest_of(adapter_id, size)) as state:
        return state


def digest_of(adapter_id: str, size: int = SIZE) -> str:
    return f"{adapter_id}:{size}"


def pin(residency: Residency, *adapters: str, size: int = SIZE) -> None:
    residency.pin({name: digest_of(name, size) for name in adapters})


def ids(residency: Residency) -> list[str]:
    return [resident.adapter_id for resident in residency.residents()]
