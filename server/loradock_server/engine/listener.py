"""Hearing that a client has left while its request is not yet with the application that would hear it.

An ASGI server does not end a request whose client is gone; it says so to whoever reads. Knows nothing else of HTTP.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any

from .replies import Message, Receive


class Listener:
    """A request's `receive`: what is heard during a wait is kept for the application."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._heard: deque[Message] = deque()

    async def __call__(self) -> Message:
        return self._heard.popleft() if self._heard else await self._receive()

    async def stays_for(self, event: Coroutine[Any, Any, None]) -> bool:
        """Wait for `event`; False when the client left first. Raises what `event` or reading raises."""
        waiting, listening = asyncio.create_task(event), asyncio.create_task(self._listen())
        try:
            await asyncio.wait({waiting, listening}, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                waiting.result()
                return True
            listening.result()
            return False
        finally:
            waiting.cancel()
            listening.cancel()
            await asyncio.gather(waiting, listening, return_exceptions=True)

    async def _listen(self) -> None:
        while True:
            message = await self._receive()
            self._heard.append(message)
            if message["type"] == "http.disconnect":
                return
