"""Which adapters are in the engine's memory, who is using them, and which leaves when room is needed.

One owner for that state. It knows adapters by id and digest and moves them through a `Loader`; it knows neither
vLLM nor HTTP. The rule that makes every answer attributable: an id is `name@version`, and is never loaded from
other bytes than its digest.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

log = logging.getLogger(__name__)


class ResidencyError(Exception):
    """An adapter cannot be served now. `status`, `code`: what the HTTP answer says."""

    status = 500
    code = "adapter_unavailable"


class AdapterUnfit(ResidencyError):
    """The engine or the checks refused the adapter's content; the message says why. Seen by the client as 422."""

    status = 422
    code = "adapter_rejected"


class AdapterGone(ResidencyError):
    """The artifact store does not have these bytes, or not unharmed. Seen by the client as 404."""

    status = 404
    code = "adapter_missing"


class NoRoom(ResidencyError):
    """Every adapter in memory is answering requests; 503, worth a retry."""

    status = 503
    code = "adapter_capacity"


class Retiring(ResidencyError):
    """The adapter is being unloaded while this request came in; 503, worth a retry."""

    status = 503
    code = "adapter_unloading"


class EngineGone(ResidencyError):
    """The engine died under the load; 503, worth a retry on its successor."""

    status = 503
    code = "engine_unavailable"


class Loader(Protocol):
    """The engine's own way to take an adapter in and put it out; each load gets a number never used before."""

    async def load(self, adapter_id: str, folder: Path) -> int:
        """Load and publish under this id. Raises a ResidencyError; then nothing of it is left in the engine."""

    async def unload(self, adapter_id: str, number: int) -> None:
        """Withdraw the id and free its memory."""


class Artifacts(Protocol):
    """Where bytes come from. Called in a worker thread."""

    def fetch(self, digest: str) -> tuple[Path, int]:
        """A verified folder for this digest, and its size in bytes. Raises AdapterGone or AdapterUnfit."""


class Observer(Protocol):
    """Told about what happens, for metrics."""

    def loaded(self, adapter_id: str, seconds: float, *, ok: bool) -> None: ...
    def evicted(self, adapter_id: str, *, for_room: bool) -> None: ...


@dataclass(slots=True)
class Load:
    """A load under way. `waiters`: requests that will use what it brings, unless their clients leave."""

    digest: str
    task: asyncio.Task[Resident]
    waiters: int = 0


@dataclass(slots=True)
class Resident:
    """One adapter in memory. `users`: requests being answered by it; `load`: how it came."""

    adapter_id: str
    digest: str
    number: int
    size_bytes: int
    load: Load
    users: int = 0
    last_used: float = field(default_factory=time.time)  # seconds since the epoch
    retiring: bool = False
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def in_use(self) -> bool:
        """Requests hold it, or waited for its load and are about to. Without the latter, two cold adapters that
        compete for one place could evict each other for ever, each before its first request has got hold of it.
        """
        return self.users > 0 or self.load.waiters > 0


class Residency:
    """Adapters in memory, at most `capacity` of them, loaded on demand, the longest idle one evicted first."""

    def __init__(
        self,
        loader: Loader,
        artifacts: Artifacts,
        observer: Observer,
        *,
        capacity: int,
        room_timeout_seconds: float = 30.0,
    ) -> None:
        self._loader = loader
        self._artifacts = artifacts
        self._observer = observer
        self._capacity = capacity
        self._room_timeout = room_timeout_seconds
        self._residents: dict[str, Resident] = {}
        self._loads: dict[str, Load] = {}
        self._room = asyncio.Lock()  # one load changes the set of residents at a time
        self._released = asyncio.Event()

    def residents(self) -> list[Resident]:
        return sorted(self._residents.values(), key=lambda r: r.adapter_id)

    @asynccontextmanager
    async def lease(self, adapter_id: str, digest: str) -> AsyncIterator[str]:
        """Hold an adapter in memory for one request; yields "resident" or "cold" (it had to be loaded).

        Raises a ResidencyError when it cannot be served; a failed load leaves the engine as it was.
        """
        state = "resident"
        while (resident := self._usable(adapter_id, digest)) is None:
            state = "cold"
            await self._loaded(adapter_id, digest)
        resident.users += 1
        try:
            yield state
        finally:
            resident.users -= 1
            resident.last_used = time.time()
            self._tell_if_idle(resident)

    def prefetch(self, adapter_id: str, digest: str) -> None:
        """Begin to load an adapter that will soon be asked for, if memory has a place for it that nobody else has.

        A failure is told to those who ask for it then: they try again.
        """
        known = adapter_id in self._residents or adapter_id in self._loads
        if not known and len(self._residents) + len(self._loads) < self._capacity:
            self._begin_load(adapter_id, digest)

    async def unload(self, adapter_id: str, *, timeout_seconds: float | None = None) -> bool:
        """Drain, then free the memory. False when it was not resident. New requests for it are refused meanwhile.

        A load under way is waited for and undone. Raises TimeoutError when requests still run after
        `timeout_seconds`; it then serves on.
        """
        async with asyncio.timeout(timeout_seconds):
            if load := self._loads.get(adapter_id):
                await asyncio.wait({load.task})
            resident = self._residents.get(adapter_id)
            if resident is None or resident.retiring:
                return False
            resident.retiring = True
            try:
                while resident.in_use:
                    resident.idle.clear()
                    await resident.idle.wait()
            except BaseException:
                resident.retiring = False
                raise
        # Not under the lock that loads hold while they wait for room: this is what makes room.
        await self._drop(resident, for_room=False)
        return True

    def _usable(self, adapter_id: str, digest: str) -> Resident | None:
        resident = self._residents.get(adapter_id)
        if resident is None:
            return None
        if resident.digest != digest:
            raise other_bytes(adapter_id, resident.digest, digest)
        if resident.retiring:
            raise Retiring(f"adapter {adapter_id} is being unloaded")
        return resident

    async def _loaded(self, adapter_id: str, digest: str) -> None:
        """Return once a load of this adapter is done; on return, and until the next await, it cannot be evicted."""
        load = self._loads.get(adapter_id)
        if load is None:
            load = self._begin_load(adapter_id, digest)
        elif load.digest != digest:
            raise other_bytes(adapter_id, load.digest, digest)
        load.waiters += 1
        try:
            # Shielded: a client that leaves must not break off a load that others wait for.
            await asyncio.shield(load.task)
        finally:
            load.waiters -= 1
            if resident := self._residents.get(adapter_id):
                self._tell_if_idle(resident)

    def _begin_load(self, adapter_id: str, digest: str) -> Load:
        load = Load(digest, asyncio.create_task(self._load(adapter_id, digest), name=f"load {adapter_id}"))
        self._loads[adapter_id] = load
        load.task.add_done_callback(lambda done: self._forget_load(adapter_id, done))
        return load

    def _tell_if_idle(self, resident: Resident) -> None:
        if not resident.in_use:
            resident.idle.set()
            self._released.set()

    def _forget_load(self, adapter_id: str, task: asyncio.Task[Resident]) -> None:
        del self._loads[adapter_id]
        if not task.cancelled():
            task.exception()  # read, so that a failure nobody waits for any more is not reported as lost

    async def _load(self, adapter_id: str, digest: str) -> Resident:
        began = time.monotonic()
        ok = False
        try:
            # Reading and verifying happen before the engine is asked, in a thread: decoding goes on meanwhile.
            folder, size_bytes = await asyncio.to_thread(self._artifacts.fetch, digest)
            patience_ends = time.monotonic() + self._room_timeout
            async with self._room:
                await self._make_room(patience_ends)
                number = await self._loader.load(adapter_id, folder)
                resident = Resident(adapter_id, digest, number, size_bytes, self._loads[adapter_id])
                self._residents[adapter_id] = resident
            ok = True
            return resident
        except ResidencyError:
            raise
        except Exception as error:
            # Whatever it was, it concerns this adapter's requests only, and they must hear of it.
            log.exception("loading adapter %s failed", adapter_id)
            raise ResidencyError(
                f"adapter {adapter_id} could not be loaded: {type(error).__name__}: {error}"
            ) from error
        finally:
            self._observer.loaded(adapter_id, time.monotonic() - began, ok=ok)

    async def _make_room(self, patience_ends: float) -> None:
        """Evict until one more fits. The monotonic time `patience_ends` counts from when the load came to the door, so
        that loads that queue behind one that waits do not wait one after the other.
        """
        while len(self._residents) >= self._capacity:
            if idle := [r for r in self._residents.values() if not r.in_use and not r.retiring]:
                await self._drop(min(idle, key=lambda r: r.last_used), for_room=True)
                continue
            self._released.clear()
            try:
                async with asyncio.timeout(max(0.0, patience_ends - time.monotonic())):
                    await self._released.wait()
            except TimeoutError:
                raise NoRoom(
                    f"all {self._capacity} adapters in memory are answering requests; "
                    "retry, or raise LORADOCK_MAX_CPU_LORAS"
                ) from None

    async def _drop(self, resident: Resident, *, for_room: bool) -> None:
        # Out of the table first: from here on nobody can lease it.
        if self._residents.get(resident.adapter_id) is not resident:
            return
        del self._residents[resident.adapter_id]
        self._released.set()
        try:
            await self._loader.unload(resident.adapter_id, resident.number)
        finally:
            self._observer.evicted(resident.adapter_id, for_room=for_room)


def other_bytes(adapter_id: str, loaded: str, wanted: str) -> AdapterUnfit:
    return AdapterUnfit(
        f"adapter {adapter_id} is loaded with digest {loaded[:12]}, the gateway asked for {wanted[:12]}: "
        "a version never changes its bytes"
    )
