"""Which adapters are in the engine's memory, who is using them, and which leaves when room is needed.

One owner for that state. It knows adapters by id and digest and moves them through a `Loader`; it knows neither
vLLM nor HTTP. The rule that makes every answer attributable: an id is `name@version`, and is never loaded from
other bytes than its digest.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from .limits import MemoryLimits
from .pins import Pins, Problem

log = logging.getLogger(__name__)

# What is prepared takes memory that no budget counts, so few at a time.
PREPARATIONS = 2


class ResidencyError(Exception):
    """An adapter cannot be served now. `status`, `code`: what the HTTP answer says."""

    status = 500
    code = "adapter_unavailable"


class AdapterUnfit(ResidencyError):
    """The engine or the checks refused the adapter's content; the message says why. Seen by the client as 422."""

    status = 422
    code = "adapter_rejected"


class AdapterTooLarge(AdapterUnfit):
    """It does not fit into the memory for adapters, even when nobody else is there."""

    code = "adapter_too_large"


class AdapterGone(ResidencyError):
    """The artifact store does not have these bytes, or not unharmed. Seen by the client as 404."""

    status = 404
    code = "adapter_missing"


class StoreUnreachable(ResidencyError):
    """The artifact store does not answer, a bucket maybe; 503, worth a retry."""

    status = 503
    code = "adapter_unavailable"


class NoRoom(ResidencyError):
    """Every adapter in memory is answering requests or pinned; 503, worth a retry."""

    status = 503
    code = "adapter_capacity"


class NotNow(NoRoom):
    """A load that no request waits for found no room that it may take. Nobody's request fails by it."""


class Retiring(ResidencyError):
    """The adapter is being unloaded while this request came in; 503, worth a retry."""

    status = 503
    code = "adapter_unloading"


class EngineGone(ResidencyError):
    """The engine died under the load; 503, worth a retry on its successor."""

    status = 503
    code = "engine_unavailable"


class Prepared(Protocol):
    """An adapter read and laid out, ready for the engine."""

    @property
    def size_bytes(self) -> int:
        """What it will take in memory."""

    def close(self) -> None:
        """Give back what preparing took, whether it was loaded or not. Idempotent."""


class Loader(Protocol):
    """The engine's own way to take an adapter in and put it out; each load gets a number never used before."""

    async def prepare(self, adapter_id: str, folder: Path) -> Prepared:
        """Do all that can be done before the engine is asked. Raises a ResidencyError; then nothing is left of it."""

    async def load(self, adapter_id: str, prepared: Prepared) -> int:
        """Load and publish under this id. Raises a ResidencyError; then nothing of it is left in the engine."""

    async def unload(self, adapter_id: str, number: int) -> None:
        """Withdraw the id and free its memory."""


class Artifacts(Protocol):
    """Where bytes come from. Called in a worker thread."""

    def fetch(self, digest: str) -> Path:
        """A verified folder for this digest. Raises AdapterGone or AdapterUnfit."""


class Observer(Protocol):
    """Told about what happens, for metrics."""

    def loaded(self, adapter_id: str, seconds: float, *, ok: bool) -> None: ...
    def evicted(self, adapter_id: str, *, for_room: bool) -> None: ...


@dataclass(slots=True)
class Load:
    """A load under way. `waiters`: requests that will use what it brings, unless their clients leave.

    `purpose` says how far it may go for room: a prefetch takes what nobody has, a pin evicts the idle, a request waits
    too. A request that joins makes it its own.
    """

    digest: str
    task: asyncio.Task[Resident]
    purpose: Literal["prefetch", "pin", "request"]
    waiters: int = 0


@dataclass(slots=True)
class Resident:
    """One adapter in memory. `users`: requests being answered by it; `load`: how it came; times in seconds since the
    epoch, `last_used` None before its first request.
    """

    adapter_id: str
    digest: str
    number: int
    size_bytes: int
    load: Load
    users: int = 0
    loaded_at: float = field(default_factory=time.time)
    last_used: float | None = None
    retiring: bool = False
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def in_use(self) -> bool:
        """Requests hold it, or waited for its load and are about to. Without the latter, two cold adapters that
        compete for one place could evict each other for ever, each before its first request has got hold of it.
        """
        return self.users > 0 or self.load.waiters > 0

    @property
    def idle_since(self) -> float:
        return self.last_used or self.loaded_at


class Residency:
    """Adapters in memory within `limits`, loaded on demand, the longest idle one evicted first, pinned ones never."""

    def __init__(
        self,
        loader: Loader,
        artifacts: Artifacts,
        observer: Observer,
        *,
        limits: MemoryLimits,
        room_timeout_seconds: float = 30.0,
    ) -> None:
        self._loader = loader
        self._artifacts = artifacts
        self._observer = observer
        self.limits = limits
        self._room_timeout = room_timeout_seconds
        self._residents: dict[str, Resident] = {}
        self._leaving: list[Resident] = []  # their memory is being freed
        self._loads: dict[str, Load] = {}
        self._sizes: dict[str, int] = {}  # by digest, of all that were ever prepared
        self._pins = Pins(limits, self._sizes)
        self._pinning: asyncio.Task[None] | None = None
        self._preparations = asyncio.Semaphore(PREPARATIONS)
        self._room = asyncio.Lock()  # one load changes the set of residents at a time
        self._released = asyncio.Event()

    def residents(self) -> list[Resident]:
        return sorted(self._residents.values(), key=lambda r: r.adapter_id)

    @property
    def used_bytes(self) -> int:
        return sum(r.size_bytes for r in (*self._residents.values(), *self._leaving))

    @property
    def pins(self) -> Pins:
        """To be read; changed by `pin`."""
        return self._pins

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
        resident.last_used = time.time()
        try:
            yield state
        finally:
            resident.users -= 1
            resident.last_used = time.time()
            self._tell_if_idle(resident)

    def prefetch(self, adapter_id: str, digest: str) -> None:
        """Begin to load an adapter that will soon be asked for, if memory has room for it that nobody else has.

        A failure is told to those who ask for it then: they try again.
        """
        if adapter_id in self._residents or adapter_id in self._loads:
            return
        places = self.limits.adapters - len(self._residents) - len(self._loads)
        if places > 0 and self.used_bytes + self._sizes.get(digest, 1) <= self.limits.size_bytes:
            self._begin_load(adapter_id, digest, "prefetch")

    def pin(self, wanted: Mapping[str, str]) -> None:
        """Keep these in memory from now on (digests by id, oldest pin first) and let the others go as any.

        Returns at once; loads that are missing begin in the background. Those that fail are tried again at the next
        call; `pins.problems()` says why.
        """
        self._pins.replace(wanted)
        if self._pinning is None or self._pinning.done():
            self._pinning = asyncio.create_task(self._load_pins(), name="load pins")

    async def unload(self, adapter_id: str, *, timeout_seconds: float | None = None) -> bool:
        """Drain, then free the memory. False when it was not resident. New requests for it are refused meanwhile.

        A load under way is waited for and undone, a pin is forgotten. Raises TimeoutError when requests still run after
        `timeout_seconds`; it then serves on.
        """
        self._pins.forget(adapter_id)
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
        if load is None or load.task.done():  # over, and about to be forgotten
            load = self._begin_load(adapter_id, digest, "request")
        elif load.digest != digest:
            raise other_bytes(adapter_id, load.digest, digest)
        load.purpose = "request"
        load.waiters += 1
        try:
            # Shielded: a client that leaves must not break off a load that others wait for.
            await asyncio.shield(load.task)
        finally:
            load.waiters -= 1
            if resident := self._residents.get(adapter_id):
                self._tell_if_idle(resident)

    async def _load_pins(self) -> None:
        # One after the other: a request that comes now waits for one of them at most.
        tried: set[str] = set()
        while missing := [
            name
            for name in self._pins.wanted
            if name in self._pins.kept() and name not in self._residents and name not in tried
        ]:
            tried.add(missing[0])
            await self._load_pin(missing[0], self._pins.wanted[missing[0]])
        self._pins.tell()

    async def _load_pin(self, adapter_id: str, digest: str) -> None:
        load = self._loads.get(adapter_id)
        if load is None or load.task.done():
            load = self._begin_load(adapter_id, digest, "pin")
        elif load.purpose == "prefetch":
            load.purpose = "pin"
        await asyncio.wait({load.task})
        error = None if load.task.cancelled() else load.task.exception()
        if isinstance(error, ResidencyError):
            self._pins.failed(adapter_id, Problem(error.code, str(error)))

    def _begin_load(self, adapter_id: str, digest: str, purpose: Literal["prefetch", "pin", "request"]) -> Load:
        task = asyncio.create_task(self._load(adapter_id, digest), name=f"load {adapter_id}")
        load = self._loads[adapter_id] = Load(digest, task, purpose)
        task.add_done_callback(lambda _: self._forget_load(adapter_id, load))
        return load

    def _tell_if_idle(self, resident: Resident) -> None:
        if not resident.in_use:
            resident.idle.set()
            self._released.set()

    def _forget_load(self, adapter_id: str, load: Load) -> None:
        if self._loads.get(adapter_id) is load:
            del self._loads[adapter_id]
        if not load.task.cancelled():
            load.task.exception()  # read, so that a failure nobody waits for any more is not reported as lost

    async def _load(self, adapter_id: str, digest: str) -> Resident:
        began = time.monotonic()
        outcome: bool | None = False
        try:
            resident = await self._bring(self._loads[adapter_id], adapter_id, digest)
            outcome = True
            return resident
        except NotNow:
            outcome = None
            raise
        except ResidencyError:
            raise
        except Exception as error:
            # Whatever it was, it concerns this adapter's requests only, and they must hear of it.
            log.exception("loading adapter %s failed", adapter_id)
            raise ResidencyError(
                f"adapter {adapter_id} could not be loaded: {type(error).__name__}: {error}"
            ) from error
        finally:
            if outcome is not None:
                self._observer.loaded(adapter_id, time.monotonic() - began, ok=outcome)

    async def _bring(self, load: Load, adapter_id: str, digest: str) -> Resident:
        if (known := self._sizes.get(digest)) is not None:
            self._refuse_what_never_fits(adapter_id, known)
        # Reading and verifying happen before the engine is asked, in a thread: decoding goes on meanwhile.
        folder = await asyncio.to_thread(self._artifacts.fetch, digest)
        patience_ends = time.monotonic() + self._room_timeout
        async with self._preparations:
            with closing(await self._loader.prepare(adapter_id, folder)) as prepared:
                self._sizes[digest] = prepared.size_bytes
                async with self._room:
                    await self._make_room(load, adapter_id, prepared.size_bytes, patience_ends)
                    number = await self._loader.load(adapter_id, prepared)
                    resident = Resident(adapter_id, digest, number, prepared.size_bytes, load)
                    self._residents[adapter_id] = resident
        self._pins.failed(adapter_id, None)
        return resident

    # --- Room ---

    async def _make_room(self, load: Load, adapter_id: str, size_bytes: int, patience_ends: float) -> None:
        """Evict until one more of this size fits. The monotonic time `patience_ends` counts from when the load came to
        the door, so that loads that queue behind one that waits do not wait one after the other.
        """
        self._refuse_what_never_fits(adapter_id, size_bytes)
        if load.purpose == "pin" and adapter_id not in self._pins.kept():
            raise NotNow(f"adapter {adapter_id} is over the limits for pins, or not pinned any more")
        while (shortage := self._shortage(adapter_id, size_bytes)) is not None:
            if load.purpose == "prefetch":
                raise NotNow(f"no spare room for adapter {adapter_id}: {shortage}")
            if self._leaving:
                self._released.clear()
                await self._released.wait()
            elif leaver := self._next_to_leave(size_bytes):
                await self._drop(leaver, for_room=True)
            elif load.purpose == "pin":
                raise NotNow(shortage)
            else:
                await self._something_released(shortage, patience_ends)

    async def _something_released(self, shortage: str, patience_ends: float) -> None:
        self._released.clear()
        try:
            async with asyncio.timeout(max(0.0, patience_ends - time.monotonic())):
                await self._released.wait()
        except TimeoutError:
            raise NoRoom(shortage) from None

    def _shortage(self, adapter_id: str, size_bytes: int) -> str | None:
        """Which limit one more of this size would break, and the way out."""
        if len(self._residents) >= self.limits.adapters:
            return (
                f"all {self.limits.adapters} adapters in memory are answering requests{self._or_pinned()}; "
                "retry, or raise LORADOCK_MAX_CPU_LORAS"
            )
        if self.used_bytes + size_bytes > self.limits.size_bytes:
            return (
                f"adapter {adapter_id} takes {size_bytes:,} bytes; of {self.limits.size_bytes:,} for adapters "
                f"{self.used_bytes:,} are held by adapters that are answering requests{self._or_pinned()}; "
                "retry, or raise LORADOCK_ADAPTER_MEMORY_BYTES"
            )
        return None

    def _or_pinned(self) -> str:
        return " or pinned" if self._pins.kept() else ""

    def _refuse_what_never_fits(self, adapter_id: str, size_bytes: int) -> None:
        kept = self._pins.kept()
        pinned = sum(r.size_bytes for r in self._residents.values() if r.adapter_id in kept)
        limit = self.limits.size_bytes - pinned
        if size_bytes > limit:
            unpin, left = (", unpin others", " that pinned ones leave") if pinned else ("", "")
            raise AdapterTooLarge(
                f"adapter {adapter_id} takes {size_bytes:,} bytes in memory, more than the {limit:,} for adapters{left}"
                f"; train it with a lower rank or fewer modules{unpin}, or raise LORADOCK_ADAPTER_MEMORY_BYTES"
            )

    def _next_to_leave(self, size_bytes: int) -> Resident | None:
        """The longest idle one, if the idle together would make enough room."""
        kept = self._pins.kept()
        idle = [r for r in self._residents.values() if not (r.in_use or r.retiring or r.adapter_id in kept)]
        bytes_left = self.used_bytes - sum(r.size_bytes for r in idle)
        enough = (
            len(self._residents) - len(idle) < self.limits.adapters
            and bytes_left + size_bytes <= self.limits.size_bytes
        )
        return min(idle, key=lambda r: r.idle_since) if idle and enough else None

    async def _drop(self, resident: Resident, *, for_room: bool) -> None:
        # Out of the table first: from here on nobody can lease it.
        if self._residents.get(resident.adapter_id) is not resident:
            return
        del self._residents[resident.adapter_id]
        self._leaving.append(resident)
        try:
            await self._loader.unload(resident.adapter_id, resident.number)
        finally:
            self._leaving.remove(resident)
            self._released.set()
            self._observer.evicted(resident.adapter_id, for_room=for_room)


def other_bytes(adapter_id: str, loaded: str, wanted: str) -> AdapterUnfit:
    return AdapterUnfit(
        f"adapter {adapter_id} is loaded with digest {loaded[:12]}, the gateway asked for {wanted[:12]}: "
        "a version never changes its bytes"
    )
