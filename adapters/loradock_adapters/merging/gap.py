"""How far apart two models are on the same texts: the logprobs of the tokens that were to be learned.

Knows models as transformers has them, and nothing of how they were made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from loradock_adapters.training.data import IGNORED, Tokens


@dataclass(frozen=True, slots=True)
class Gap:
    """|Δ logprob| in nats over `tokens` answer tokens."""

    mean: float
    largest: float
    tokens: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def answer_logprobs(model: torch.nn.Module, examples: Sequence[Tokens]) -> torch.Tensor:
    """The logprob of every learned token of all examples, one after the other, in fp32. The model computes as it is."""
    found = []
    with torch.no_grad():
        for example in examples:
            ids = torch.tensor([example.input_ids])
            logits = model(input_ids=ids).logits[0, :-1].float()
            labels = torch.tensor(example.labels[1:])
            learned = labels != IGNORED
            logprobs = torch.log_softmax(logits[learned], dim=-1)
            found.append(logprobs.gather(1, labels[learned].unsqueeze(1)).squeeze(1))
    return torch.cat(found)


def gap(one: torch.Tensor, other: torch.Tensor) -> Gap:
    """Between two results of `answer_logprobs` over the same examples."""
    apart = (one - other).abs()
    return Gap(float(apart.mean()), float(apart.max()), apart.numel())
