"""How long a run is: optimiser steps, warm-up and epochs, once the number of examples is known."""

from __future__ import annotations

import math
from dataclasses import dataclass

_WARM_UP_SHARE = 0.05  # of all steps, where a recipe does not say


@dataclass(frozen=True, slots=True)
class Schedule:
    """`epochs`: how often each example is seen, on average."""

    steps: int
    warmup_steps: int
    epochs: float

    @classmethod
    def of(
        cls, *, examples: int, batch_size: int, accumulation: int, steps: int | None, epochs: float, warmup: int | None
    ) -> Schedule:
        """`steps` wins over `epochs`; the last step of an epoch has what is left over, as the Trainer does it."""
        an_epoch = math.ceil(math.ceil(examples / batch_size) / accumulation)
        total = math.ceil(epochs * an_epoch) if steps is None else steps
        return cls(
            steps=total,
            warmup_steps=round(_WARM_UP_SHARE * total) if warmup is None else warmup,
            epochs=total / an_epoch,
        )
