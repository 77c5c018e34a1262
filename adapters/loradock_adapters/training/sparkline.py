"""A curve in one line of text."""

from __future__ import annotations

import math
from collections.abc import Sequence

_BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int) -> str:
    """At most `width` blocks, each the mean of its share of the values; what is no number is a cross."""
    shares = [values[start:end] for start, end in _shares(len(values), width)]
    means = [sum(share) / len(share) for share in shares]
    finite = [mean for mean in means if math.isfinite(mean)]
    if not finite:
        return "x" * len(means)
    low, high = min(finite), max(finite)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((mean - low) * scale)] if math.isfinite(mean) else "x" for mean in means)


def _shares(count: int, width: int) -> list[tuple[int, int]]:
    """Where each block's values begin and end."""
    blocks = min(count, width)
    return [(block * count // blocks, (block + 1) * count // blocks) for block in range(blocks)]
