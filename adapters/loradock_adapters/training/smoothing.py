"""The running mean that every curve is drawn with."""

from __future__ import annotations

from collections.abc import Iterable

_PAST = 0.9  # its weight


def smooth(values: Iterable[float]) -> list[float]:
    """Exponential running mean, corrected for its start."""
    smoothed: list[float] = []
    mean, weight = 0.0, 0.0
    for value in values:
        mean = _PAST * mean + (1 - _PAST) * value
        weight = _PAST * weight + (1 - _PAST)
        smoothed.append(mean / weight)
    return smoothed
