"""Questions in token ids to a running server, and answers with the logprob of every token."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import openai
from tokenizers import Tokenizer

ROOT = Path(__file__).parents[2]
Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """`model`: whom the response says it is by. Logprobs are of the tokens given; a prompt's begin at its second.
    `likeliest`: at each token of the answer, the logprobs of the tokens that were the likeliest there.
    """

    model: str
    prompt: Tokens
    tokens: Tokens
    logprobs: tuple[float, ...]
    likeliest: tuple[dict[int, float], ...]
    prompt_logprobs: tuple[float, ...] | None
    cached: int


async def ask(
    client: openai.AsyncOpenAI, model: str, prompt: Tokens, tokens: int, *, prompt_logprobs: bool = False
) -> Reply:
    """A greedy completion of exactly `tokens` tokens. Prompt logprobs make the engine compute the whole prompt."""
    extra: dict[str, Any] = {"ignore_eos": True, "return_token_ids": True, "return_tokens_as_token_ids": True}
    if prompt_logprobs:
        extra["prompt_logprobs"] = 0
    done = await client.completions.create(
        model=model, prompt=list(prompt), max_tokens=tokens, temperature=0, logprobs=5, extra_body=extra
    )
    choice: Any = done.choices[0]
    assert done.usage is not None
    details = done.usage.prompt_tokens_details
    given = None
    if prompt_logprobs:
        each = zip(prompt[1:], choice.prompt_logprobs[1:], strict=True)
        given = tuple(float(likeliest[str(token)]["logprob"]) for token, likeliest in each)
    return Reply(
        model=done.model,
        prompt=prompt,
        tokens=tuple(choice.token_ids),
        logprobs=tuple(choice.logprobs.token_logprobs),
        likeliest=tuple(
            {int(key.removeprefix("token_id:")): logprob for key, logprob in each.items()}
            for each in choice.logprobs.top_logprobs
        ),
        prompt_logprobs=given,
        cached=(details.cached_tokens or 0) if details else 0,
    )


def some_text(base: Path, length: int, seed: int) -> Tokens:
    """`length` tokens of English out of the middle of a text that never changes: our license."""
    text = _license(base)
    start = random.Random(seed).randrange(len(text) - length)
    return text[start : start + length]


@cache
def _license(base: Path) -> Tokens:
    return tuple(Tokenizer.from_file(str(base / "tokenizer.json")).encode((ROOT / "LICENSE").read_text()).ids)


def distance(one: Reply, other: Reply) -> float:
    """The largest difference between the logprobs of two answers to one prompt, up to where they part; infinite when
    they part at tokens that were not near each other.
    """
    worst = 0.0
    for step, (token, its) in enumerate(zip(one.tokens, other.tokens, strict=True)):
        for chosen in (token, its):
            mine, yours = (reply.likeliest[step].get(chosen, -math.inf) for reply in (one, other))
            worst = max(worst, abs(mine - yours))
        if token != its:
            break
    return worst


def gap(one: Sequence[float], other: Sequence[float]) -> float:
    """The largest difference between two rows of logprobs."""
    return max((abs(x - y) for x, y in zip(one, other, strict=True)), default=0.0)
