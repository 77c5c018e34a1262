"""Promote, don't, or not enough data: decided by the paired gain of the deciding metric over the base, prompted or not.

The rules, in this order; `gain` is over the stronger of the rivals, its interval is the 95 % one:

1. fewer examples than `min_examples`: not enough data;
2. the interval of the gain over every rival lies above zero: promote, unless the adapter forgot more than is allowed;
3. the interval lies below zero: don't, it is worse;
4. the interval includes zero, and its upper end is below `worth`: don't, the rival does as well;
5. the interval includes zero, and a gain that is worth it is still possible: not enough data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from loradock_adapters.evaluating.contenders import Role
from loradock_adapters.evaluating.statistics import Comparison

Kind = Literal["promote", "dont", "not_enough_data"]


@dataclass(frozen=True, slots=True)
class Rules:
    """`worth`: the smallest gain that is worth an adapter, in the metric's own unit. `max_forgetting`: the largest
    certain loss of right answers on general questions, 0 … 1; None: any.
    """

    min_examples: int = 30
    worth: float = 0.05
    max_forgetting: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """`line`: the verdict as people read it. `rival`: whom the adapter was judged against. `needed`: how many examples
    would probably decide, where there are too few.
    """

    kind: Kind
    line: str
    rival: Role
    needed: int | None = None


def decide(
    gains: Mapping[Role, Comparison],
    strongest: Role,
    rules: Rules,
    forgetting: Comparison | None = None,
) -> Verdict:
    """`gains`: over each rival by name; `strongest`: the one that did best. `forgetting`: general questions, against
    the base.
    """
    gain = gains[strongest]
    if gain.n < rules.min_examples:
        line = f"not enough data: {gain.n} examples, at least {rules.min_examples} are needed"
        return Verdict("not_enough_data", line, strongest, rules.min_examples)
    if all(one.low > 0 for one in gains.values()):
        # Its upper end: as much as was lost for certain.
        if forgetting is not None and rules.max_forgetting is not None and forgetting.high < -rules.max_forgetting:
            line = (
                f"don't: better than {_named(strongest)}, but it forgot more than allowed "
                f"({forgetting.gain * 100:+.1f} points on general questions)"
            )
            return Verdict("dont", line, strongest)
        return Verdict("promote", f"promote: better than {_named(strongest)}", strongest)
    if gain.high < 0:
        worse = "prompting does better" if strongest == "prompted" else "worse than base"
        return Verdict("dont", f"don't: {worse}", strongest)
    if gain.high < rules.worth:
        as_well = "prompting does as well" if strongest == "prompted" else "the base does as well"
        return Verdict("dont", f"don't: {as_well}", strongest)
    needed = _needed(gain, rules)
    line = f"not enough data: the gain over {_named(strongest)} may be nothing; about {needed} examples would tell"
    return Verdict("not_enough_data", line, strongest, needed)


def _named(rival: Role) -> str:
    return "the prompted base" if rival == "prompted" else "the base"


def _needed(gain: Comparison, rules: Rules) -> int:
    """Intervals shrink by the root of the number of examples: until this one is half as wide as what must be told."""
    half = (gain.high - gain.low) / 2
    tell = max(abs(gain.gain), rules.worth)
    needed = gain.n * (half / tell) ** 2
    step: int = 10 ** max(1, int(math.log10(max(needed, 1))) - 1)
    return max(gain.n + step, math.ceil(needed / step) * step)
