"""Which of several gateway processes on one port this is: what it shares with the others, what only one of them does.

It starts none of them; `workers` does.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Place:
    """`listener` is this worker's own socket on the port, `metrics` the folder in which all of them count, `family` a
    name that no others have.

    The `first` does what needs doing once: telling the engine its pins, sweeping the store.
    """

    number: int = 1
    workers: int = 1
    listener: socket.socket | None = None
    metrics: Path | None = None
    family: str | None = None

    @property
    def first(self) -> bool:
        return self.number == 1

    def share(self, limit: int) -> int:
        """This worker's part of what all of them together may have."""
        return max(1, limit // self.workers)


ALONE = Place()
