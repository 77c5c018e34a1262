"""One fetch under way: bytes counted, progress told, ended by its deadline, its limit or whoever wants it to stop.

It knows no protocol; whoever moves bytes calls it between two pieces.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from loradock_adapters.errors import SourceTooLarge, SourceUnavailable
from loradock_adapters.sources.limits import SourceLimits

Progress = Callable[[int, int | None], None]
"""Hears, from the fetching thread and often: bytes that are here, and all there will be (None: unknown)."""


def unheard(done: int, total: int | None) -> None:
    """The progress nobody asked for."""


@dataclass(slots=True)
class Transfer:
    """`what` is the source, fit to be shown; setting `stop` ends the fetch at the next piece."""

    what: str
    limits: SourceLimits
    progress: Progress = unheard
    stop: threading.Event = field(default_factory=threading.Event)
    done: int = 0
    total: int | None = None
    _deadline: float = 0.0

    def __post_init__(self) -> None:
        self._deadline = time.monotonic() + self.limits.timeout

    def expect(self, total: int | None) -> None:
        """What the other side announces. Raises SourceTooLarge."""
        self.total = total
        if total is not None:
            self._judge(total)
        self.progress(self.done, total)

    def advance(self, count: int) -> None:
        """So many bytes more are here. Raises SourceTooLarge, SourceUnavailable."""
        self.done += count
        self.check()
        self._judge(self.done)
        self.progress(self.done, self.total)

    def rewind(self, to: int) -> None:
        """A part has to come again."""
        self.done = to

    def sleep(self, seconds: float) -> None:
        """Wait, but not beyond the end. Raises SourceUnavailable."""
        self.stop.wait(min(seconds, self.seconds_left))
        self.check()

    @property
    def seconds_left(self) -> float:
        """Until the deadline; never less than zero."""
        return max(0.0, self._deadline - time.monotonic())

    def check(self) -> None:
        """Raises SourceUnavailable when it has to end now."""
        if self.stop.is_set():
            raise SourceUnavailable(f"fetching {self.what} was cancelled", "", "ask again")
        if self.seconds_left <= 0:
            raise SourceUnavailable(
                f"{self.what} was not here after {self.limits.timeout:g} s ({self.done} bytes were)",
                "that is all the time it has (LORADOCK_SOURCE_TIMEOUT)",
                "try again, or raise it",
            )

    def _judge(self, size: int) -> None:
        if size > self.limits.max_wrapped_bytes:
            raise SourceTooLarge(
                f"{self.what} has {size} bytes or more",
                f"at most {self.limits.max_bytes} are taken, all files together (LORADOCK_MAX_ADAPTER_BYTES)",
                "raise it, or train with a lower rank or fewer modules",
            )
