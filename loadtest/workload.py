"""What to send: which adapter, when, and a prompt that no cache can have seen. Seeded, and endless.

The seed fixes adapters, arrival times and prompt bodies, so that two runs ask the same; each run's nonce
makes its prompts new, so that the second run finds no prefix cached by the first. Knows no HTTP, no clock.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

# Each is one token, with its leading space, in practically every byte-pair vocabulary.
WORDS = tuple(
    """
    time year people way day man thing woman life child world school state family student group country
    problem hand part place case week company system program question work government number night point
    home water room mother area money story fact month lot right study book eye job word business issue
    side kind head house service friend father power hour game line end member law
    """.split()  # noqa: SIM905 - a list of 64 literals is harder to read
)
UNIQUE_WORDS = 8  # 6 bits each: shorter than any cache block, longer than any accident


class WorkloadError(ValueError):
    """An option of the workload has no meaning; the message says what is allowed."""


@dataclass(frozen=True, slots=True)
class Popularity:
    """How requests spread over adapters: exponent 0 is uniform, else Zipf (weight 1 / rank ** exponent)."""

    exponent: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Popularity:
        """Read `uniform`, `zipf` (exponent 1) or `zipf:1.2`; raises WorkloadError."""
        kind, _, exponent = text.partition(":")
        if kind == "uniform" and not exponent:
            return cls(0.0)
        try:
            if kind == "zipf" and 0 <= (value := float(exponent or 1.0)) < 10:
                return cls(value)
        except ValueError:
            pass
        raise WorkloadError(f"popularity {text!r} is neither `uniform` nor `zipf:S` with S from 0 to 10")

    def weights(self, count: int) -> list[float]:
        """Share of each of `count` adapters, the first the most popular; they add up to 1."""
        raw = [rank**-self.exponent for rank in range(1, count + 1)]
        return [weight / sum(raw) for weight in raw]


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Open loop: `rate` requests a second whether or not the server keeps up."""

    rate: float
    kind: Literal["poisson", "constant"] = "poisson"


@dataclass(frozen=True, slots=True)
class TokenScale:
    """How many tokens a prompt of so many words has: `overhead` (the chat template) + `per_word` * words."""

    overhead: float = 0.0
    per_word: float = 1.0

    @classmethod
    def through(cls, short: tuple[int, int], long: tuple[int, int]) -> TokenScale:
        """The line through two measured (words, tokens) points; one token a word if they make no sense."""
        slope = (long[1] - short[1]) / (long[0] - short[0])
        return cls(max(0.0, short[1] - slope * short[0]), slope) if slope > 0 else cls()

    def words(self, tokens: int) -> int:
        """Words that come nearest to a prompt of `tokens` tokens, never fewer than the unique run."""
        return max(UNIQUE_WORDS, round((tokens - self.overhead) / self.per_word))


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One request to come. `at_seconds` is from the run's start; None means as soon as a worker is free."""

    index: int
    model: str
    prompt: str
    at_seconds: float | None


@dataclass(frozen=True, slots=True)
class Workload:
    """Everything that decides the sequence of requests."""

    models: tuple[str, ...]
    seed: int
    nonce: str
    prompt_words: int
    popularity: Popularity = Popularity()
    arrivals: Arrivals | None = None

    def requests(self) -> Iterator[PlannedRequest]:
        """The endless sequence, the same for the same seed but for the prompts' unique beginnings."""
        choice = random.Random(f"{self.seed}:adapters")
        weights = self.popularity.weights(len(self.models))
        times = self._times()
        for index in itertools.count():
            (model,) = choice.choices(self.models, weights)
            yield PlannedRequest(index, model, self.prompt(index), next(times))

    def prompt(self, index: int | str) -> str:
        """A prompt of `prompt_words` words whose first UNIQUE_WORDS no other index and no other run has."""
        mark = hashlib.blake2b(f"{self.nonce}:{index}".encode(), digest_size=UNIQUE_WORDS).digest()
        body = random.Random(f"{self.seed}:{index}")
        unique = [WORDS[byte % len(WORDS)] for byte in mark]
        return " ".join(unique + body.choices(WORDS, k=max(0, self.prompt_words - UNIQUE_WORDS)))

    def _times(self) -> Iterator[float | None]:
        if self.arrivals is None:
            yield from itertools.repeat(None)
            return
        gaps, now = random.Random(f"{self.seed}:arrivals"), 0.0
        while True:
            yield now
            now += gaps.expovariate(self.arrivals.rate) if self.arrivals.kind == "poisson" else 1 / self.arrivals.rate
