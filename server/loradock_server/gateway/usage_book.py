"""What was used since the database last heard of it: added up in memory, written in batches, never counted twice.

A batch goes in together with how far the feed was read (see the registry's `usage`), so it can be sent again after any
failure; what a killed gateway had not written yet, the next one reads from the engine again. While the database is
locked, full or away, the sums wait here and serving goes on. One event loop only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from loradock_adapters.errors import RegistryError
from loradock_adapters.names import BASE
from loradock_adapters.registry import UsageLedger
from loradock_adapters.registry.usage import HOUR_SECONDS, Account, Position, Sums
from loradock_server.gateway.usage import Usage

WRITE_SECONDS = 0.5
LAST_WRITE_SECONDS = 5.0
MAX_ROWS = 50_000
"""Different accounts that wait for the database; what is beyond them is added up under nobody's name."""

OVERFLOW = "(overflow)"

_REFUSED = 400  # and all HTTP statuses above
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Batch:
    sums: dict[Account, Sums]
    since: Position | None
    until: Position


class UsageBook:
    """The usage of one gateway, `gateway` being its lasting name.

    `on_failure` is called each time the database could not be written; `on_moved` is told when it turns out to stand
    elsewhere than where this one left it, and where: the feed must then be read again from there.
    """

    def __init__(
        self,
        ledger: UsageLedger,
        gateway: str,
        on_moved: Callable[[Position | None], None],
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self._ledger = ledger
        self._gateway = gateway
        self._on_moved = on_moved
        self._on_failure = on_failure
        self._sums: dict[Account, Sums] = {}
        self._read: Position | None = None
        self._written: Position | None = None
        self._batch: _Batch | None = None  # on its way; may be in already if its answer was lost
        self._writing = asyncio.Lock()
        self._failing = False

    async def open(self) -> Position | None:
        """Where a gateway of this name stopped; from there on the feed is to be read. Raises RegistryError."""
        self._read = self._written = await asyncio.to_thread(self._ledger.position, self._gateway)
        return self._written

    def add(self, usage: Usage, position: Position) -> None:
        """Count one record of the feed, which is at `position` there."""
        ref = usage.adapter
        account = Account(
            int(usage.ended_at) // HOUR_SECONDS,
            usage.key_id,
            usage.tenant,
            BASE if ref is None else ref.name,
            0 if ref is None else ref.version,
        )
        sums = self._sums.get(account)
        if sums is None:
            if len(self._sums) >= MAX_ROWS:
                account = Account(account.hour, OVERFLOW, "", BASE, 0)
            sums = self._sums.setdefault(account, Sums())
        sums.requests += 1
        sums.errors += usage.status is not None and usage.status >= _REFUSED
        sums.aborted += usage.finish_reason == "abort"
        sums.input_tokens += usage.input_tokens
        sums.output_tokens += usage.output_tokens
        sums.cached_tokens += usage.cached_tokens
        self._read = position

    async def keep(self) -> None:
        """Write until cancelled."""
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            await self.write()

    async def close(self) -> None:
        """Write what is left, for at most LAST_WRITE_SECONDS."""
        try:
            async with asyncio.timeout(LAST_WRITE_SECONDS):
                while not await self.write():  # noqa: ASYNC110 it asks a database, which tells nobody when it can
                    await asyncio.sleep(WRITE_SECONDS / 5)
        except TimeoutError:
            waiting = len(self._sums) + (0 if self._batch is None else len(self._batch.sums))
            _log.error(
                "%d rows of usage could not be written; the next start from this home reads them from the engine, "
                "if that runs on until then",
                waiting,
            )

    async def write(self) -> bool:
        """Write everything that was added before; True if it is in the database now."""
        async with self._writing:
            # What failed is sent again as it was, for it may be in; then what came since.
            while self._batch is not None or self._sums:
                if not await self._write_batch():
                    return False
        return True

    async def _write_batch(self) -> bool:
        if self._batch is None:
            assert self._read is not None
            self._batch, self._sums = _Batch(self._sums, self._written, self._read), {}
        batch = self._batch
        try:
            stands = await asyncio.to_thread(
                self._ledger.add, self._gateway, batch.sums, since=batch.since, until=batch.until
            )
        except RegistryError as error:
            if not self._failing:
                _log.error("usage cannot be written (%s); it is kept in memory and tried again", error)
            self._failing = True
            self._on_failure()
            return False
        if self._failing:
            _log.warning("usage is written again")
            self._failing = False
        self._batch = None
        self._written = stands
        if stands != batch.until:
            _log.error(
                "the registry's usage of gateway %s stands at %s and not at %s: another gateway has the same home, or "
                "a backup came back; the engine's records are read again from there",
                self._gateway,
                stands,
                batch.since,
            )
            self._sums = {}
            self._read = stands
            self._on_moved(stands)
        return True
