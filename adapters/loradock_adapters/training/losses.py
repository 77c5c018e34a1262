"""How a run went, step by step: the records that trainer, log, manifest, curves and tests share. Numbers only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LossPoint:
    """Mean loss per trained token (nats) after `step` optimiser steps."""

    step: int
    loss: float


@dataclass(frozen=True, slots=True)
class Step:
    """One optimiser step. `tokens`: of all its examples, padding left out; `seconds`: without evaluations."""

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Losses:
    """Train loss of every step; held-out loss before the first step, at each evaluation and at the end."""

    train: tuple[LossPoint, ...]
    held_out: tuple[LossPoint, ...]


@dataclass(frozen=True, slots=True)
class Course:
    """Everything that was written down of a run so far; also across interruptions."""

    steps: tuple[Step, ...] = ()
    held_out: tuple[LossPoint, ...] = ()

    @property
    def losses(self) -> Losses:
        return Losses(tuple(LossPoint(step.step, step.loss) for step in self.steps), self.held_out)

    @property
    def seconds(self) -> float:
        """Spent in optimiser steps."""
        return sum(step.seconds for step in self.steps)

    @property
    def tokens(self) -> int:
        return sum(step.tokens for step in self.steps)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    def until(self, step: int) -> Course:
        """As it was when this step had been made."""
        return Course(
            tuple(one for one in self.steps if one.step <= step),
            tuple(point for point in self.held_out if point.step <= step),
        )
