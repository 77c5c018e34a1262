"""Which adapters an operator wants in memory always, which of these may be, and why one is not.

Wishes, limits and reasons only; it loads nothing. Who was pinned first comes first: a later pin never pushes out an
earlier one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple

from .limits import MemoryLimits

log = logging.getLogger(__name__)


class Problem(NamedTuple):
    """Why a wanted adapter is not kept. `reason` stays the same word while `text` gives today's numbers."""

    reason: str
    text: str


class Pins:
    """The wanted pins, oldest first. `sizes` maps digests to bytes in memory, as far as they are known by now."""

    def __init__(self, limits: MemoryLimits, sizes: Mapping[str, int]) -> None:
        self._limits = limits
        self._sizes = sizes
        self._wanted: dict[str, str] = {}
        self._failures: dict[str, Problem] = {}
        self._told: dict[str, str] = {}

    @property
    def wanted(self) -> Mapping[str, str]:
        """Digests by id."""
        return self._wanted

    def replace(self, wanted: Mapping[str, str]) -> None:
        """Want these from now on, oldest first, and no others."""
        self._wanted = dict(wanted)
        self._failures = {name: failure for name, failure in self._failures.items() if name in wanted}

    def forget(self, adapter_id: str) -> None:
        self.replace({name: digest for name, digest in self._wanted.items() if name != adapter_id})

    def failed(self, adapter_id: str, problem: Problem | None) -> None:
        """Note how the last load of it ended, whoever asked for it; None: well."""
        self._failures.pop(adapter_id, None)
        if problem is not None and adapter_id in self._wanted:
            self._failures[adapter_id] = problem

    def kept(self) -> frozenset[str]:
        """Those within the limits: once in memory they stay there."""
        return frozenset(self._wanted) - self._over_limits().keys()

    def problems(self) -> dict[str, Problem]:
        """What stands against the wanted pins, by id."""
        return {**self._failures, **self._over_limits()}

    def tell(self) -> None:
        """Log what is new since the last call."""
        problems = self.problems()
        for name, problem in problems.items():
            if self._told.get(name) != problem.reason:
                log.warning("pinned adapter %s is not kept in memory: %s", name, problem.text)
        self._told = {name: problem.reason for name, problem in problems.items()}

    def _over_limits(self) -> dict[str, Problem]:
        over: dict[str, Problem] = {}
        count = size = 0
        limits = self._limits
        for name, digest in self._wanted.items():
            own = self._sizes.get(digest, 0)
            if count + 1 > limits.pins:
                over[name] = Problem(
                    "pinned_adapters",
                    f"{len(self._wanted)} adapters are pinned, at most {limits.pins} can be (LORADOCK_MAX_CPU_LORAS "
                    "less LORADOCK_MAX_LORAS); unpin one, or raise LORADOCK_MAX_CPU_LORAS",
                )
            elif size + own > limits.pinned_bytes:
                over[name] = Problem(
                    "pinned_bytes",
                    f"it takes {own:,} bytes and those pinned before it {size:,}; at most {limits.pinned_bytes:,} can "
                    "be pinned; unpin one, or raise LORADOCK_ADAPTER_MEMORY_BYTES",
                )
            else:
                count, size = count + 1, size + own
        return over
