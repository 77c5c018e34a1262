"""What an evaluation found, as values: answers, numbers per example, estimates, comparisons, verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loradock_adapters.evaluating.asking import Answer, Decoding, Model
from loradock_adapters.evaluating.contenders import Contender, Role
from loradock_adapters.evaluating.metrics import Metric
from loradock_adapters.evaluating.statistics import Comparison, Estimate
from loradock_adapters.evaluating.verdict import Rules, Verdict
from loradock_adapters.training.data import DataFile

Values = Mapping[Role, Sequence[float]]
"""Per role one number per example, in the data's order."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A metric over all examples. `weights`: what each example counts (its tokens, for the loss). `over`: how much
    better the adapter is than each rival. `strongest`: the rival that did best.
    """

    metric: Metric
    values: Values
    weights: Sequence[float]
    estimates: Mapping[Role, Estimate]
    over: Mapping[Role, Comparison]
    strongest: Role


@dataclass(frozen=True, slots=True)
class Spent:
    """Mean tokens of a request, and what a thousand such requests cost, if prices are known."""

    prompt_tokens: float
    answer_tokens: float
    cost_per_1000: float | None
    cut: int  # answers that reached the longest length


@dataclass(frozen=True, slots=True)
class Forgetting:
    """General questions (1 right, 0 wrong) and general text (nats per token), base beside adapter.

    In both comparisons a negative gain is what was forgotten.
    """

    questions: Measured
    text: Measured | None
    asked: Sequence[tuple[str, str, str, bool, bool]]  # question, base's answer, adapter's, right, right


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything, in the order of `data.examples`. `measured`: the deciding metric first."""

    task: str
    server: str
    adapter: Model
    data: DataFile
    contenders: tuple[Contender, ...]
    decoding: Decoding
    answers: Mapping[Role, Sequence[Answer]]
    measured: tuple[Measured, ...]
    spent: Mapping[Role, Spent]
    forgetting: Forgetting | None
    rules: Rules
    verdict: Verdict
    notes: tuple[str, ...]
    prices: tuple[float, float] | None
    created_at: str
    seconds: float

    @property
    def deciding(self) -> Measured:
        return self.measured[0]
