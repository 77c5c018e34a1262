"""Base rows and adapter rows in one batch: each must be answered as if it were alone (vLLM 0.32 on CPU gets it wrong).

In float32, where the same sum in another batch differs by rounding only, so that the tolerance can be tight.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import openai
import pytest

from loadtest.correctness.loud import make_loud
from loradock_adapters.base_model import BaseModel
from tests.e2e.server import Server

pytestmark = pytest.mark.e2e

LOUD = [f"loud-{number}" for number in range(8)]
TOLERANCE = 1e-3  # of a log probability; measured noise between batch sizes is about 2e-5
RANKS = [8, 16, 1, 3, 32, 8, 64, 5]

Answer = tuple[str, list[float]]


@pytest.fixture(scope="module", autouse=True)
def loud(exact: Server, base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder: Path = tmp_path_factory.mktemp("loud")
    for number, name in enumerate(LOUD):
        exact.register(name, make_loud(folder / name, base, seed=100 + number, rank=RANKS[number]))


async def ask(client: openai.AsyncOpenAI, model: str, turn: int = 0) -> Answer:
    done = await client.completions.create(
        model=model, prompt=f"Once upon a time, {model} and {turn}", max_tokens=16, temperature=0, logprobs=0
    )
    choice = done.choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.token_logprobs is not None
    return choice.text, list(choice.logprobs.token_logprobs)


def distance(a: Answer, b: Answer) -> float:
    return max(abs(x - y) for x, y in zip(a[1], b[1], strict=True))


def test_the_base_beside_eight_loud_adapters_is_answered_as_if_each_were_alone(exact: Server, base: BaseModel) -> None:
    models = [base.name, *LOUD]

    async def alone() -> dict[tuple[str, int], Answer]:
        async with exact.async_client() as client:
            return {(model, turn): await ask(client, model, turn) for model in models for turn in range(2)}

    async def together() -> dict[tuple[str, int], Answer]:
        # Base requests between adapter requests, so that they are neighbours in every batch.
        keys = [(model, turn) for turn in range(2) for name in LOUD for model in (base.name, name)]
        keys = list(dict.fromkeys(keys))
        async with exact.async_client() as client:
            return dict(zip(keys, await asyncio.gather(*(ask(client, *key) for key in keys)), strict=True))

    expected = asyncio.run(alone())
    for _ in range(2):
        for key, answer in asyncio.run(together()).items():
            assert answer[0] == expected[key][0], key
            assert distance(answer, expected[key]) < TOLERANCE, key


def test_the_adapters_are_loud_enough_for_a_mix_up_to_show(exact: Server, base: BaseModel) -> None:
    client = exact.client()
    answers = [
        client.completions.create(model=model, prompt="Once upon a time", max_tokens=16, temperature=0).choices[0].text
        for model in (base.name, *LOUD)
    ]
    assert len(set(answers)) == len(answers)


def test_a_base_request_after_adapters_were_unloaded_finds_nothing_of_them(exact: Server, base: BaseModel) -> None:
    async def beside(others: list[str]) -> Answer:
        async with exact.async_client() as client:
            return (await asyncio.gather(ask(client, base.name, 7), *(ask(client, name) for name in others)))[0]

    before = asyncio.run(beside([]))
    exact.loradock("adapters", "delete", LOUD[7], "--yes")
    after = asyncio.run(beside(LOUD[:6]))
    assert after[0] == before[0]
    assert distance(after, before) < TOLERANCE
