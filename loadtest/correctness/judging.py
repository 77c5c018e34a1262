"""One answer of the engine beside what PEFT says about the same tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loadtest.correctness.asking import Reply
from loadtest.correctness.oracle import Oracle


@dataclass(frozen=True, slots=True)
class Verdict:
    """One reply beside PEFT. `gaps`: of every logprob in it, the prompt's first; `torn`: by how much PEFT preferred
    another token to one of the answer, at most.
    """

    name: str
    gaps: npt.NDArray[np.float64]
    torn: float


def judge(oracle: Oracle, name: str | None, reply: Reply) -> Verdict:
    sequence = (*reply.prompt, *reply.tokens)
    truth = oracle.logprobs(name, sequence)
    first = len(reply.prompt)
    likely = np.array([truth[i, token] for i, token in enumerate(sequence[1:])])
    best = truth[first - 1 : -1].max(axis=1)
    given = (*(reply.prompt_logprobs or ()), *reply.logprobs)
    return Verdict(
        f"{name or 'the base'} after {first} tokens",
        np.abs(likely[-len(given) :] - given),
        float((best - likely[first - 1 :]).max()),
    )
