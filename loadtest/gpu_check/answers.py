"""Adapters made by code, questions to them, and what the answers have to be like."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openai

from loadtest.bench.adapters import kinds
from loadtest.bench.servers import Running
from loadtest.correctness.asking import Reply, Tokens, ask, distance, some_text
from loadtest.correctness.judging import judge
from loadtest.correctness.loud import make_loud
from loadtest.correctness.oracle import Oracle
from loradock_adapters.base_model import BaseModel
from loradock_server.engine.selftest import FLOORS, LOGPROBS, NOISE_FACTOR, TOLERANCE_LIMIT

from .findings import Step

# Of a logprob, from PEFT: rounding in float32 on CPU; a GPU adds in another order. In 16 bits it is the base's own
# distance from transformers in float32 that an adapter's is held against.
EXACT = {"cpu": 1e-4, "cuda": 1e-3}
NEAR = 3.0
PROMPTS = (40, 7, 100, 24)  # tokens
Question = tuple[str | None, Tokens]


@dataclass(frozen=True, slots=True)
class Made:
    """An adapter by name; `loud`: so strong that no answer of its can be mistaken for another's."""

    name: str
    folder: Path
    loud: bool


def make_adapters(root: Path, base: BaseModel, count: int) -> list[Made]:
    """Loud ones, and as many as training leaves them: weaker by far; of odd ranks, some on a part of the layers."""
    every = kinds(base)
    attention = [kind for kind in every if any(word in kind for word in ("q_", "k_", "v_", "o_", "qkv", "out_proj"))]
    made = []
    for number in range(count):
        rank = (8, 16, 1, 3, 32, 13, 64, 5)[number % 8]
        targets = attention if number % 4 == 3 and attention else every
        folder = make_loud(root / f"check-loud-{number}", base, 100 + number, rank=rank, targets=targets)
        made.append(Made(folder.name, folder, True))
        folder = make_loud(
            root / f"check-trained-{number}", base, 200 + number, rank=rank, targets=targets, strength=0.02
        )
        made.append(Made(folder.name, folder, False))
    return made


def questions(base: BaseModel, names: Sequence[str | None], prompts: int) -> list[Question]:
    """Each of them, with so many prompts of its own."""
    return [
        (name, some_text(base.folder, PROMPTS[turn % len(PROMPTS)], seed=31 * number + turn))
        for number, name in enumerate(names)
        for turn in range(prompts)
    ]


def ask_all(server: Running, asked: Sequence[Question], tokens: int, *, together: bool) -> list[Reply]:
    """One reply for each question; all at once, or one after the other. Raises RuntimeError for another's answer."""

    async def main() -> list[Reply]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0) as client:
            waiting = [ask(client, name or server.base, prompt, tokens, prompt_logprobs=True) for name, prompt in asked]
            return list(await asyncio.gather(*waiting)) if together else [await one for one in waiting]

    replies = asyncio.run(main())
    for (name, _), reply in zip(asked, replies, strict=True):
        if reply.model.partition("@")[0] != (name or server.base):
            raise RuntimeError(f"{name or server.base} was asked, and the answer says it is by {reply.model}")
    return replies


def as_peft_has_it(step: Step, oracle: Oracle, asked: Sequence[Question], replies: Sequence[Reply], dtype: str) -> None:
    """Every logprob near PEFT's in float32, and in float32 every token PEFT's own choice."""
    verdicts = [(name, judge(oracle, name, reply)) for (name, _), reply in zip(asked, replies, strict=True)]
    of_base = np.concatenate([verdict.gaps for name, verdict in verdicts if name is None])
    of_adapters = np.concatenate([verdict.gaps for name, verdict in verdicts if name is not None])
    torn = max(verdict.torn for _, verdict in verdicts)
    step.figures |= {
        "answers": len(replies),
        "logprobs": of_base.size + of_adapters.size,
        "base: mean gap": float(of_base.mean()),
        "base: largest": float(of_base.max()),
        "adapters: mean gap": float(of_adapters.mean()),
        "adapters: largest": float(of_adapters.max()),
        "torn by": torn,
    }
    if dtype == "float32":
        limit = EXACT[oracle.device]
        step.figures["limit"] = limit
        worst = max(float(of_base.max()), float(of_adapters.max()))
        step.must(worst <= limit, f"a logprob is {worst:.3g} from PEFT's, more than {limit:g}")
        step.must(torn <= limit, f"a token that PEFT would not have chosen, by {torn:.3g}; at most {limit:g}")
        return
    for word, mine, its in (
        ("mean", of_adapters.mean(), of_base.mean()),
        ("largest", of_adapters.max(), of_base.max()),
    ):
        step.figures[f"limit of the {word}"] = NEAR * float(its)
        step.must(
            bool(mine <= NEAR * its),
            f"in {dtype} adapters are {mine:.3g} from PEFT ({word}), more than {NEAR:g} times the base's {its:.3g}",
        )


def rounding(dtype: str, noise: float = 0.0) -> float:
    """What a logprob may move by in other company, as the engine's self-test has it; below every adapter's effect.

    `noise`: what the base was seen to move by among its like.
    """
    return min(max(FLOORS.get(dtype, FLOORS["bfloat16"]), NOISE_FACTOR * noise), TOLERANCE_LIMIT)


def apart_in_company(
    step: Step,
    asked: Sequence[Question],
    alone: Sequence[Reply],
    together: Sequence[Reply],
    limit: float,
) -> None:
    """Each answer beside all others is what it was alone, and an answer by another's weights would have shown."""
    moved = [distance(*pair) for pair in zip(alone, together, strict=True)]
    by_base = {reply.prompt: reply for (name, _), reply in zip(asked, alone, strict=True) if name is None}
    effects = [
        distance(reply, by_base[reply.prompt])
        for (name, _), reply in zip(asked, alone, strict=True)
        if name is not None
    ]
    worst, effect = max(moved), min(effects)
    step.figures |= {"answers": len(moved), "moved by": worst, "limit": limit, "least effect of an adapter": effect}
    step.must(worst <= limit, f"an answer moved by {worst:.3g} in company, more than {limit:.3g}")
    least = LOGPROBS.least_effect(limit)
    step.must(effect >= least, f"an adapter moves the base's answer by {effect:.3g}, least {least:.3g}: is it applied?")
