"""Is a row of samples flat? A straight line through what comes after the warm-up says how much it grew by then.

Numbers only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# Of the run: caches, pools and metric series of what comes again fill up meanwhile.
WARM_UP = 0.2
MEBIBYTE = 1 << 20
# Growth over everything after the warm-up that is still called none.
ALLOWED: Mapping[str, float] = {"rss": 8 * MEBIBYTE, "files": 8, "threads": 4, "tasks": 8}
# The same of the real engine's processes, in which torch and the C library's heaps keep pages of their own.
ALLOWED_OF_AN_ENGINE: Mapping[str, float] = {
    "gateway rss": 8 * MEBIBYTE,
    "gateway files": 8,
    **{
        f"{role} {what}": allowed
        for role in ("api", "core", "worker", "stager")
        for what, allowed in (("rss", 64 * MEBIBYTE), ("files", 8))
    },
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """`growth` is that of the line, from the end of the warm-up to the end; units are the samples' own."""

    what: str
    first: float
    last: float
    growth: float
    per_hour: float
    allowed: float

    @property
    def is_flat(self) -> bool:
        return self.growth <= self.allowed


def judge(samples: Sequence[Mapping[str, float]], allowed_growth: Mapping[str, float] = ALLOWED) -> list[Verdict]:
    """One verdict for each thing that is allowed to grow by so much only."""
    end = samples[-1]["seconds"]
    late = [sample for sample in samples if sample["seconds"] >= end * WARM_UP]
    seconds = np.array([sample["seconds"] for sample in late])
    found = []
    for what, allowed in allowed_growth.items():
        values = np.array([sample[what] for sample in late], float)
        slope = float(np.polyfit(seconds, values, 1)[0]) if len(late) > 2 else 0.0
        growth = slope * float(seconds[-1] - seconds[0])
        found.append(Verdict(what, float(values[0]), float(values[-1]), growth, slope * 3600, allowed))
    return found
