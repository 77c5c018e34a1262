"""The shape of a linear module, as everything that reads, plans or checks adapters of one has it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinearShape:
    """A linear module maps `in_features` numbers to `out_features`."""

    in_features: int
    out_features: int
