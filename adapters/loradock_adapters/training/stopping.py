"""When to stop before the end: a held-out loss that no longer falls, or somebody who pressed Ctrl-C.

Plain Python; the trainer asks.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from loradock_adapters.training.losses import LossPoint
from loradock_adapters.training.recipe import EarlyStopping


class Watch:
    """Follows the held-out loss. `best` is the lowest so far; the loss before the first step counts as well."""

    def __init__(self, rule: EarlyStopping) -> None:
        self._rule = rule
        self.best: LossPoint | None = None
        self.failed = 0

    def told(self, point: LossPoint) -> bool:
        """Whether this one is the best so far."""
        if self.best is None or point.loss < self.best.loss - self._rule.min_delta:
            self.best, self.failed = point, 0
            return True
        self.failed += 1
        return False

    @property
    def enough(self) -> bool:
        return self.failed >= self._rule.patience


class StopRequest:
    """Whether somebody wants the run to end after the current step."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def ask(self) -> None:
        self._asked.set()

    @property
    def asked(self) -> bool:
        return self._asked.is_set()


@contextmanager
def stopping_on_signals(request: StopRequest, told: Callable[[], None] = lambda: None) -> Iterator[None]:
    """SIGINT and SIGTERM ask once; the next one ends the program as it always did. In the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:
        request.ask()
        for other, handler in before.items():
            signal.signal(other, handler)
        told()

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
