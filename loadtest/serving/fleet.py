"""What runs while a way is measured: which endpoint answers for which adapter, and whose memory counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

Adapters = Sequence[tuple[str, Path]]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where one adapter answers; `body`: what a request says besides, where a name does not choose the adapter."""

    url: str
    model: str
    key: str = ""
    body: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fleet:
    """What runs: an endpoint for each adapter that found room, and the processes with all they started.

    `start_seconds`: from the first process's start until every adapter could be asked.
    """

    endpoints: tuple[Endpoint, ...]
    roots: tuple[int, ...]
    start_seconds: float = 0.0

    def memory(self) -> int:
        """Bytes: the proportional set sizes of all processes, so that what they share counts once."""
        return sum(one.memory_full_info().pss for one in self._processes())

    def processes(self) -> int:
        return len(self._processes())

    def _processes(self) -> list[psutil.Process]:
        roots = [psutil.Process(pid) for pid in self.roots]
        return [one for root in roots for one in (root, *root.children(recursive=True))]
