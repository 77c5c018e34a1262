"""Workers of one gateway tell one another at once that the registry changed, so that none waits for its next look.

An empty datagram, and nothing is believed of it: whoever gets one asks the registry. It knows no names and no routes.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


class Siblings:
    """`family` is the workers' common name; None for a gateway that is alone."""

    def __init__(self, family: str | None, number: int, workers: int) -> None:
        self._family = family
        self._number = number
        self._others = [other for other in range(1, workers + 1) if other != number]
        self._socket: socket.socket | None = None

    @contextmanager
    def heard(self, hear: Callable[[], None]) -> Iterator[None]:
        """Call `hear` in the running loop, whenever another one tells, inside the block."""
        if self._family is None:
            yield
            return
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ears:
            ears.setblocking(False)
            ears.bind(self._address(self._number))

            def read() -> None:
                with suppress(BlockingIOError):
                    while True:
                        ears.recv(1)
                        hear()

            self._socket = ears
            loop.add_reader(ears.fileno(), read)
            try:
                yield
            finally:
                loop.remove_reader(ears.fileno())
                self._socket = None

    def tell(self) -> None:
        """Something changed. Who is just starting, or has much unread, finds out by itself."""
        if self._socket is None:
            return
        for other in self._others:
            with suppress(OSError):
                self._socket.sendto(b"!", self._address(other))

    def _address(self, number: int) -> str:
        # Linux's own names, without a file: a home folder's path may be too long for a socket.
        return f"\0loradock-{self._family}-{number}"
