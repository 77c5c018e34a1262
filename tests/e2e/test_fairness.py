"""A hot set of exactly max_loras adapters on the real engine, and one lonely request that must not wait for ever."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import openai
import pytest

from loadtest.correctness.loud import make_loud
from loradock_adapters.base_model import BaseModel
from loradock_server.engine.admission import TICK_SECONDS
from tests.e2e.server import Server, run_server
from tests.e2e.waiting import LONG_ENOUGH_SECONDS

pytestmark = pytest.mark.e2e

HOT = ("hot-0", "hot-1")
QUANTUM_SECONDS = 1.0
TOKENS = 120
# For the way through the gateway and the prompt; on a busy machine only that nobody waits for the hot set to end.
SPARE_SECONDS = 1 if os.environ.get("LONG_TESTS") else 10


@pytest.fixture(scope="module")
def narrow(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("fairness")
    with run_server(
        base.folder,
        LORADOCK_MAX_LORAS="2",
        LORADOCK_FAIR_QUANTUM_SECONDS=str(QUANTUM_SECONDS),
        LORADOCK_MAX_WAITING_PER_ADAPTER="2",
    ) as server:
        for number, name in enumerate((*HOT, "lonely")):
            server.loradock("adapters", "register", name, str(make_loud(folder / name, base, seed=number)))
        yield server


class Heat:
    """Clients that keep the hot adapters busy until `stopped`; knows how long their answers took.

    An adapter has no pause, however fast the machine: its next answer is asked for when a quarter of the last one is
    there. Only a client that is held up for the rest of it leaves one, which `pauses` counts.
    """

    def __init__(self, client: openai.AsyncOpenAI) -> None:
        self._client = client
        self.stopped = False
        self.running = dict.fromkeys(HOT, 0)
        self.answers = dict.fromkeys(HOT, 0)
        self.pauses = 0
        self.pauses_alone = 0  # of them, those before anybody else asked
        self.longest_seconds = 0.0

    async def relay(self, name: str) -> None:
        async with asyncio.TaskGroup() as answers:
            while not self.stopped:
                quarter = asyncio.Event()
                answers.create_task(self._answer(name, quarter))
                await quarter.wait()

    async def _answer(self, name: str, quarter: asyncio.Event) -> None:
        began = None
        usage = {"include_usage": True, "continuous_usage_stats": True}
        async for chunk in await self._client.completions.create(
            model=name,
            prompt="Once",
            max_tokens=TOKENS,
            stream=True,
            extra_body={"ignore_eos": True, "stream_options": usage},
        ):
            if began is None:
                began = time.monotonic()
                self.running[name] += 1
            if chunk.usage is not None and chunk.usage.completion_tokens >= TOKENS // 4:
                quarter.set()
        assert began is not None
        self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)
        self.running[name] -= 1
        self.answers[name] += 1
        self.pauses += self.running[name] == 0 and not self.stopped


async def lonely(client: openai.AsyncOpenAI) -> float:
    """Seconds until the first token of a lonely request."""
    began = time.monotonic()
    stream = await client.completions.create(model="lonely", prompt="Hi", max_tokens=4, stream=True)
    async for _ in stream:
        return time.monotonic() - began
    raise AssertionError("no answer")


async def one_try(narrow: Server) -> tuple[Heat, list[float]]:
    """Three lonely requests beside the hot set: its heat, and the seconds that each of them waited."""
    async with narrow.async_client(timeout=120) as client:
        await lonely(client)  # from here on it is resident, and the engine is warm
        heat = Heat(client)
        streams = [asyncio.create_task(heat.relay(name)) for name in HOT]
        while min(heat.answers.values()) < 3:
            await asyncio.sleep(0.1)
        heat.pauses_alone = heat.pauses
        waits = []
        for _ in range(3):
            waits.append(await lonely(client))
            seen = dict(heat.answers)
            while any(heat.answers[name] < seen[name] + 2 for name in HOT):
                await asyncio.sleep(0.1)
        heat.stopped = True
        await asyncio.gather(*streams)
        return heat, waits


def test_a_lonely_request_beside_a_hot_set_is_answered_within_the_bound(narrow: Server) -> None:
    asked = 0
    for _ in range(3):
        heat, waits = asyncio.run(one_try(narrow))
        asked += 1 + len(waits)
        bound = QUANTUM_SECONDS + heat.longest_seconds + TICK_SECONDS + SPARE_SECONDS
        assert max(waits) <= bound, (waits, heat.longest_seconds)
        if heat.pauses_alone == 0:
            break
    assert heat.pauses_alone == 0, "the hot set left pauses by itself, each time: this run shows nothing"
    assert max(waits) > QUANTUM_SECONDS / 10
    # Its waiting was counted as queueing.
    assert narrow.metric("loradock_queue_seconds_sum", adapter="lonely") > 0.1
    assert narrow.metric("loradock_queue_seconds_count", adapter="lonely") == asked


def test_a_line_that_is_full_answers_429_with_the_time_to_come_back(narrow: Server) -> None:
    async def main() -> None:
        async with narrow.async_client(timeout=120) as client:

            async def ask(name: str, tokens: int) -> None:
                await client.completions.create(
                    model=name, prompt="Once", max_tokens=tokens, extra_body={"ignore_eos": True}
                )

            async def begin(name: str) -> openai.AsyncStream[openai.types.Completion]:
                stream = await client.completions.create(
                    model=name, prompt="Once", max_tokens=600, stream=True, extra_body={"ignore_eos": True}
                )
                await anext(stream)
                return stream

            hot = await asyncio.gather(*(begin(name) for name in HOT))  # from here on both places are taken
            asked = [asyncio.create_task(ask("lonely", 1)) for _ in range(3)]
            done, waiting = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            (refused,) = done
            with pytest.raises(openai.RateLimitError) as too_many:
                refused.result()
            assert too_many.value.code == "adapter_queue_full"
            assert int(too_many.value.response.headers["retry-after"]) >= 1

            first, second = waiting
            first.cancel()  # a client that leaves its place in the line leaves it to others
            await first_that_fits(lambda: ask("lonely", 1))
            for stream in hot:
                await stream.close()
            await second

    asyncio.run(main())


async def first_that_fits(ask: Callable[[], Awaitable[None]]) -> None:
    """Ask again while the line is full: it takes a moment until the engine hears that a client left it."""
    deadline = time.monotonic() + LONG_ENOUGH_SECONDS
    while time.monotonic() < deadline:
        try:
            return await ask()
        except openai.RateLimitError:
            await asyncio.sleep(0.02)
    raise AssertionError("the line stays full")
