"""Usage records on their way to the gateways: kept in order, sent once asked for, re-sent after a lost connection."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

KEEP_ALIVE_SECONDS = 5.0
GATHER_SECONDS = 0.005
"""After some records were sent: many at once cost both sides less than each by itself, and nobody waits for them."""

MAX_GATEWAYS = 1000  # whose last number is remembered


class UsageFeed:
    """A bounded log of usage records that any number of gateways follow, each seeing only its own.

    `kept` records of all of them are remembered for a gateway that comes back; older ones are gone. Each record says
    which one was `before` it for the same gateway, so that one that has gone is noticed.
    """

    def __init__(self, kept: int = 20_000) -> None:
        self._records: deque[dict[str, Any]] = deque(maxlen=kept)
        self._last = 0
        self._before: dict[str, int] = {}
        self._changed = asyncio.Condition()
        self._closed = False

    async def publish(self, gateway: str, record: dict[str, Any]) -> None:
        async with self._changed:
            self._last += 1
            before = self._before.pop(gateway, 0)
            self._records.append({"seq": self._last, "before": before, "gateway": gateway, **record})
            self._before[gateway] = self._last
            if len(self._before) > MAX_GATEWAYS:
                del self._before[next(iter(self._before))]  # the one that has been silent for longest
            self._changed.notify_all()

    async def close(self) -> None:
        """End every follower after what it has not yet seen."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    async def follow(self, gateway: str, after: int) -> AsyncIterator[bytes]:
        """NDJSON lines for one gateway from sequence number `after` on; an empty line when nothing happens."""
        while True:
            unseen = itertools.takewhile(lambda r, seen=after: r["seq"] > seen, reversed(self._records))  # type: ignore[misc]
            fresh = [record for record in unseen if record["gateway"] == gateway]
            after = max(after, self._last)
            if fresh:
                yield b"".join(_line(record) for record in reversed(fresh))
                await asyncio.sleep(GATHER_SECONDS)
                continue
            if self._closed:
                return
            try:
                async with asyncio.timeout(KEEP_ALIVE_SECONDS), self._changed:
                    await self._changed.wait_for(lambda seen=after: self._last > seen or self._closed)  # type: ignore[misc]
            except TimeoutError:
                yield b"\n"


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps({k: v for k, v in record.items() if k != "gateway"}).encode() + b"\n"
