"""When a version may go live: what its attached evaluations must say, alone and beside the live version's.

Values in, reasons out. It knows no registry and no HTTP.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from loradock_adapters.evaluation import Evaluation
from loradock_adapters.names import AdapterRef


class PromotionGate(BaseModel):
    """`threshold`: no worse than this. `no_worse_by`: at most this much worse than the live version on the same data.

    Both on `metric`, of which `direction` is better, of every task that was measured, or of `task` only. `required`:
    without an evaluation nothing goes live.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    metric: str = Field(min_length=1, max_length=100)
    direction: Literal["higher", "lower"] = "higher"
    threshold: float | None = None
    no_worse_by: float | None = Field(default=None, ge=0)
    required: bool = False
    task: str | None = Field(default=None, min_length=1, max_length=100)

    @model_validator(mode="after")
    def _demands_something(self) -> PromotionGate:
        if self.threshold is None and self.no_worse_by is None and not self.required:
            raise ValueError("the gate demands nothing; give threshold, no_worse_by or required")
        return self

    @classmethod
    def parse(cls, text: str) -> PromotionGate:
        """Read `metric=score,no_worse_by=0.02` or a JSON object. Raises ValueError."""
        if text.lstrip().startswith("{"):
            return cls.model_validate(json.loads(text))
        pairs = [word.partition("=") for word in text.split(",")]
        if any(not equals for _, equals, _ in pairs):
            raise ValueError("write it as metric=score,no_worse_by=0.02")
        names = [name.strip() for name, _, _ in pairs]
        if len(set(names)) < len(names):
            raise ValueError("a name stands twice")
        return cls.model_validate({name.strip(): value.strip() for name, _, value in pairs})

    def objections(self, candidate: Measured, live: Measured | None) -> tuple[Objection, ...]:
        """What speaks against letting `candidate` go live where `live` (None: nothing) is now."""
        latest = self._latest(candidate.evaluations)
        if not latest:
            if not self.required:
                return ()
            wanted = self.metric if self.task is None else f"{self.metric} of {self.task}"
            return (
                Objection(candidate.ref.id, "required", self.metric, self.task, text=f"no evaluation has {wanted}"),
            )
        found = []
        for evaluation in latest:
            found += self._below_threshold(candidate.ref, evaluation)
            if live is not None:
                found += self._worse_than(candidate.ref, evaluation, live)
        return tuple(found)

    def _latest(self, evaluations: Sequence[Evaluation]) -> list[Evaluation]:
        """The latest of each task that counts; they come oldest first."""
        return list(
            {
                evaluation.task: evaluation
                for evaluation in evaluations
                if self.metric in evaluation.metrics and self.task in (None, evaluation.task)
            }.values()
        )

    def _below_threshold(self, ref: AdapterRef, evaluation: Evaluation) -> list[Objection]:
        value = evaluation.metrics[self.metric]
        if self.threshold is None or not self._is_worse(value, self.threshold):
            return []
        text = f"{self.metric} {value:g} on {evaluation.task}, the threshold is {self.threshold:g}"
        return [Objection(ref.id, "threshold", self.metric, evaluation.task, value, self.threshold, text=text)]

    def _worse_than(self, ref: AdapterRef, evaluation: Evaluation, live: Measured) -> list[Objection]:
        if self.no_worse_by is None:
            return []
        same = [
            other
            for other in live.evaluations
            if (other.task, other.data_sha256) == (evaluation.task, evaluation.data_sha256)
            and self.metric in other.metrics
        ]
        if not same:
            return []  # nothing that could be compared
        value, before = evaluation.metrics[self.metric], same[-1].metrics[self.metric]
        limit = before - self.no_worse_by if self.direction == "higher" else before + self.no_worse_by
        if not self._is_worse(value, limit):
            return []
        text = (
            f"{self.metric} {value:g} on {evaluation.task}, {live.ref.id} has {before:g}; "
            f"at most {self.no_worse_by:g} worse is allowed"
        )
        return [
            Objection(ref.id, "no_worse_by", self.metric, evaluation.task, value, limit, live.ref.id, before, text=text)
        ]

    def _is_worse(self, value: float, limit: float) -> bool:
        # 0.5 - 0.02 is not quite 0.48.
        if math.isclose(value, limit, rel_tol=1e-9, abs_tol=1e-12):
            return False
        return value < limit if self.direction == "higher" else value > limit


@dataclass(frozen=True, slots=True)
class Measured:
    """A version and its evaluations, oldest first."""

    ref: AdapterRef
    evaluations: Sequence[Evaluation]


@dataclass(frozen=True, slots=True)
class Objection:
    """One rule that a version breaks: `value` against `limit`, and what the live version has where that counts."""

    version: str
    rule: Literal["required", "threshold", "no_worse_by"]
    metric: str
    task: str | None
    value: float | None = None
    limit: float | None = None
    live: str | None = None
    live_value: float | None = None
    text: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
