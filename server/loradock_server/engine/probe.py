"""The smoke probe of one adapter on the live engine: it must move logprobs, and every logprob must be a number.

Asked for at the end of a registration. It takes its turn and holds its memory as a request does; nobody is charged for
it. It knows no registry (the gateway draws the conclusions) and no vLLM: it asks through a `Prober`.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .admission import Admission, Reading
from .residency import Residency
from .selftest import LOGPROBS, Answer, Prober, Row

PROMPT_TOKENS = 32
TOKENS = 4
# How far answers of the base differ among themselves says what rounding alone does beside the traffic of the moment.
BASE_ROWS = 3
# An answer without effect may by chance lie apart from three others, but not by a multiple of what divides these.
NOISE_FACTOR = 3.0
# A faint adapter may drown in noise once.
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """`problem` is why the adapter must not be served, None when it passed. `effect`: the most by which it moved a
    logprob; `noise`: the most by which the base's own answers differed. None where a logprob was no number.
    """

    problem: str | None
    effect: float | None = None
    noise: float | None = None


class Probe:
    """Asks a fixed prompt of the base and of an adapter at the same time, and compares."""

    def __init__(
        self,
        prober: Prober,
        residency: Residency,
        admission: Admission,
        *,
        vocab_size: int,
        max_model_len: int,
        number: str = LOGPROBS.name,
    ) -> None:
        """`number`: what answers are made of, in words."""
        self._prober = prober
        self._residency = residency
        self._admission = admission
        self._number = number
        self._prompt = fixed_prompt(vocab_size, max_model_len)
        self._one_at_a_time = asyncio.Lock()

    async def judge(self, adapter_id: str, digest: str) -> Verdict:
        """Raises AdmissionError or ResidencyError when the adapter cannot be asked at all."""
        # Only the adapter's row lines up: rows of the base need no place, and a few short ones crowd nobody out.
        async with self._one_at_a_time:
            with self._admission.line_up(adapter_id, lambda: Reading(0, 0)) as ticket:
                if not ticket.admitted:
                    self._residency.prefetch(adapter_id, digest)
                    await ticket.turn()
                async with self._residency.lease(adapter_id, digest):
                    return await self._ask(adapter_id)

    async def _ask(self, adapter_id: str) -> Verdict:
        rows = [*(Row(self._prompt) for _ in range(BASE_ROWS)), Row(self._prompt, adapter_id)]
        effect = noise = 0.0
        for _ in range(ROUNDS):
            *base, adapted = await self._prober.answers(rows, TOKENS)
            if not all(map(math.isfinite, logprobs(adapted))):
                return Verdict(
                    f"{adapter_id} gives a {self._number} that is NaN or infinite; train it again, or more gently"
                )
            noise = max(gap(one, other) for one, other in itertools.combinations(base, 2))
            effect = min(gap(answer, adapted) for answer in base)
            if effect > NOISE_FACTOR * noise:
                return Verdict(None, effect, noise)
        return Verdict(
            f"{adapter_id} changes nothing: it moves no {self._number} of the fixed prompt by more than {effect:.3g}, "
            f"where the base model's own answers differ by {noise:.3g}; train it longer, or look at its scale",
            effect,
            noise,
        )


def fixed_prompt(vocab_size: int, max_model_len: int) -> tuple[int, ...]:
    """The same token ids for every adapter of a base model, out of the middle of the vocabulary, where no special
    tokens are.
    """
    length = min(PROMPT_TOKENS, max_model_len - TOKENS)
    ids = np.random.default_rng(0).integers(vocab_size // 8, vocab_size // 2, length)
    return tuple(int(number) for number in ids)


def logprobs(answer: Answer) -> Iterator[float]:
    """Every logprob that an answer came with."""
    yield from answer.prompt_logprobs
    for step in answer.likeliest:
        yield from step.values()


def gap(one: Answer, other: Answer) -> float:
    """The largest difference of a logprob that both answers give for the same token after the same tokens."""
    gaps = [abs(x - y) for x, y in zip(one.prompt_logprobs, other.prompt_logprobs, strict=True)]
    for step, (mine, yours) in enumerate(zip(one.tokens, other.tokens, strict=True)):
        here, there = one.likeliest[step], other.likeliest[step]
        gaps += [abs(here[token] - there[token]) for token in here.keys() & there.keys()]
        if mine != yours:
            break
    return max(gaps)
