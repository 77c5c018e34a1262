"""How sure one may be of a mean and of a difference: bootstrap intervals and paired tests, seeded.

Values come per example; weights make a mean over tokens of values per example. It knows no metric and no model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 9999
_BATCH = 4_000_000  # numbers in memory at a time


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `n` examples with its 95 % interval. `method`: bca, percentile, wilson (see `estimate`)."""

    mean: float
    low: float
    high: float
    n: int
    method: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """How much better the first of two is, on the same `n` examples: mean gain, its 95 % interval, two-sided p.

    `test`: mcnemar (exact) or permutation (of signs). `wins`, `losses`: examples where it is better, worse.
    """

    gain: float
    low: float
    high: float
    p: float
    test: str
    n: int
    wins: int
    losses: int

    @property
    def ties(self) -> int:
        return self.n - self.wins - self.losses


def estimate(values: Sequence[float], weights: Sequence[float], *, binary: bool, seed: int) -> Estimate:
    """The weighted mean and its interval, by bootstrap (BCa). `values` may not be empty.

    Where all values are equal a bootstrap can only draw that value: of yes and no Wilson's interval is given then, of
    other numbers the value itself.
    """
    each, weight = np.asarray(values, float), np.asarray(weights, float)
    mean = float(np.average(each, weights=weight))
    if binary and np.all(each == each[0]):
        from scipy.stats import binomtest

        bounds = binomtest(int(each.sum()), len(each)).proportion_ci(CONFIDENCE, method="wilson")
        return Estimate(mean, float(bounds.low), float(bounds.high), len(each), "wilson")
    low, high, method = _bootstrap(each, weight, seed)
    return Estimate(mean, low, high, len(each), method)


def compare(
    ours: Sequence[float],
    theirs: Sequence[float],
    weights: Sequence[float],
    *,
    binary: bool,
    higher: bool = True,
    seed: int,
) -> Comparison:
    """The gain of `ours` over `theirs`, example by example; positive is better, also where less is."""
    gain = (np.asarray(ours, float) - np.asarray(theirs, float)) * (1 if higher else -1)
    weight = np.asarray(weights, float)
    low, high, _ = _bootstrap(gain, weight, seed)
    wins, losses = int((gain > 0).sum()), int((gain < 0).sum())
    return Comparison(
        gain=float(np.average(gain, weights=weight)),
        low=low,
        high=high,
        p=_mcnemar(wins, losses) if binary else _permutation(gain * weight, seed),
        test="mcnemar" if binary else "permutation",
        n=len(gain),
        wins=wins,
        losses=losses,
    )


def _bootstrap(values: Any, weights: Any, seed: int) -> tuple[float, float, str]:
    if len(values) < 2 or np.all(values == values[0]):
        mean = float(np.average(values, weights=weights))
        return mean, mean, "percentile"
    from scipy.stats import bootstrap

    def mean_of(some: Any, weight: Any, axis: int = -1) -> Any:
        return (some * weight).sum(axis=axis) / weight.sum(axis=axis)

    for method in ("BCa", "percentile"):
        # BCa is undefined where leaving out an example never moves the mean; numpy says so by NaN and a warning.
        with np.errstate(all="ignore"), _no_warnings():
            bounds = bootstrap(
                (values, weights),
                mean_of,
                paired=True,
                vectorized=True,
                method=method,
                confidence_level=CONFIDENCE,
                n_resamples=RESAMPLES,
                batch=max(1, _BATCH // len(values)),
                rng=np.random.default_rng(seed),
            ).confidence_interval
        if math.isfinite(bounds.low) and math.isfinite(bounds.high):
            break
    return float(bounds.low), float(bounds.high), method.lower()


def _mcnemar(wins: int, losses: int) -> float:
    from scipy.stats import binomtest

    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def _permutation(gains: Any, seed: int) -> float:
    """How often gains of random sign would sum up to as much."""
    if not gains.any():
        return 1.0
    from scipy.stats import permutation_test

    result = permutation_test(
        (gains,),
        lambda some, axis=-1: some.sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=max(1, _BATCH // len(gains)),
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def _no_warnings() -> Any:
    import warnings

    return warnings.catch_warnings(action="ignore")
