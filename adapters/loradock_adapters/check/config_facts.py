"""What an adapter's configuration says, once it was read: rank and scale of every module, and who is targeted."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TypeVar

from loradock_adapters.check.targets import Targets

Number = TypeVar("Number", int, float)
Patterns = tuple[tuple[re.Pattern[str], Number], ...]


@dataclass(frozen=True, slots=True)
class LoraFacts:
    """Harmless values stand where the configuration was faulty: a rank of 0 is one that nobody knows."""

    rank: int = 0
    alpha: float = 0.0
    rslora: bool = False
    targets: Targets = field(default_factory=Targets)
    rank_pattern: Patterns[int] = ()
    alpha_pattern: Patterns[float] = ()
    base_name: str = ""
    is_lora: bool = True

    def rank_of(self, module: str) -> int:
        """The rank of one module, as PEFT and vLLM match it: by the first pattern to fit its end."""
        return _first(self.rank_pattern, module, self.rank)

    def scale_of(self, module: str) -> float:
        """What B·A of one module is multiplied with; 1 where that is not known."""
        rank, alpha = self.rank_of(module), _first(self.alpha_pattern, module, self.alpha)
        if not rank or not alpha:
            return 1.0
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank

    @property
    def highest_rank(self) -> int:
        return max([self.rank, *(rank for _, rank in self.rank_pattern)])


def _first(patterns: Patterns[Number], module: str, otherwise: Number) -> Number:
    return next((value for pattern, value in patterns if pattern.match(module)), otherwise)
