"""How the loss went: the record that trainer, manifest, plot and tests share. Numbers only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LossPoint:
    """Mean loss per trained token (nats) after `step` optimiser steps."""

    step: int
    loss: float


@dataclass(frozen=True, slots=True)
class Losses:
    """Train loss of every step; held-out loss before the first step, at each evaluation and at the end."""

    train: tuple[LossPoint, ...]
    held_out: tuple[LossPoint, ...]
