"""A client's transport that sends the head of an answer together with what follows it: one packet, one system call.

Uvicorn writes the two one after the other, and uvloop sends each write at once. It knows no HTTP: whoever holds it says
when a head comes.
"""

from __future__ import annotations

import asyncio
from typing import Any


class Corked:
    """Everything but writing and ending is the transport's own business."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self.is_closing = transport.is_closing
        self._loop = loop
        self._held: bytes | None = None
        self._holds_next = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def expect_head(self) -> None:
        """Hold the next write back until another one comes, or this turn of the loop is over."""
        self._holds_next = True

    def expect_whole(self) -> None:
        """Hold nothing back: heads come with what follows them until `expect_head` is called again."""
        self._holds_next = False

    def write(self, data: bytes) -> None:
        if self._held is not None:
            data, self._held = self._held + data, None
        elif self._holds_next:
            self._holds_next = False
            self._held = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        self._held = None
        self._transport.abort()

    def _flush(self) -> None:
        if self._held is not None:
            data, self._held = self._held, None
            if not self._transport.is_closing():
                self._transport.write(data)
