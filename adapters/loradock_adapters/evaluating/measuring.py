"""Numbers per example become estimates, comparisons and sums. It asks nobody."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from loradock_adapters.evaluating.asking import Answer
from loradock_adapters.evaluating.contenders import Role
from loradock_adapters.evaluating.labels import MOST, label_of
from loradock_adapters.evaluating.metrics import Metric
from loradock_adapters.evaluating.outcome import Measured, Spent
from loradock_adapters.evaluating.statistics import Comparison, compare, estimate


def measured(metric: Metric, values: Mapping[Role, Sequence[float]], weights: Sequence[float], seed: int) -> Measured:
    """A metric over all examples: `values` of at least the adapter and one rival, in the order of the examples."""
    estimates = {role: estimate(each, weights, binary=metric.binary, seed=seed) for role, each in values.items()}
    rivals: list[Role] = [role for role in values if role != "adapter"]
    over: dict[Role, Comparison] = {
        role: compare(values["adapter"], values[role], weights, binary=metric.binary, higher=metric.higher, seed=seed)
        for role in rivals
    }
    # Of equals the last, which is the prompted one: that it did as well is what one wants to know.
    strongest = min(reversed(rivals), key=lambda role: over[role].gain)
    return Measured(metric, values, weights, estimates, over, strongest)


def sum_up(answers: Sequence[Answer], prices: tuple[float, float] | None) -> Spent:
    """Mean lengths, and what a thousand requests like these cost; `prices` are per million tokens in and out."""
    given = sum(one.prompt_tokens for one in answers) / len(answers)
    made = sum(one.answer_tokens for one in answers) / len(answers)
    cost = None if prices is None else (given * prices[0] + made * prices[1]) / 1000
    return Spent(given, made, cost, sum(one.finish == "length" for one in answers))


def by_label(wanted: Sequence[str], all_measured: Sequence[Measured]) -> dict[str, tuple[int, dict[Role, float]]]:
    """How many examples each label has and their accuracy; empty where accuracy was not measured or labels are many."""
    found = next((one for one in all_measured if one.metric.name == "accuracy"), None)
    of_label: dict[str, list[int]] = defaultdict(list)
    for number, text in enumerate(wanted):
        of_label[label_of(text)].append(number)
    if found is None or len(of_label) > MOST:
        return {}
    return {
        label: (len(own), {role: sum(each[n] for n in own) / len(own) for role, each in found.values.items()})
        for label, own in sorted(of_label.items())
    }
