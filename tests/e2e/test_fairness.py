"""A hot set of exactly max_loras adapters on the real engine, and one lonely request that must not wait for ever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from loradock_adapters.base_model import BaseModel
from loradock_server.engine.admission import TICK_SECONDS
from tests.e2e.loud import make_loud
from tests.e2e.server import Server, run_server

pytestmark = pytest.mark.e2e

HOT = ("hot-0", "hot-1")
QUANTUM_SECONDS = 1.0
STREAMS = 2  # for each hot adapter, half an answer out of step: there is always one running
TOKENS = 120


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
    """Clients that keep the hot adapters busy until `stopped`; knows how long their answers took."""

    def __init__(self, client: openai.AsyncOpenAI) -> None:
        self._client = client
        self.stopped = False
        self.running = dict.fromkeys(HOT, 0)
        self.gaps = dict.fromkeys(HOT, 0)
        self.longest_seconds = 0.0

    async def stream(self, name: str, delay: float) -> None:
        await asyncio.sleep(delay)
        while not self.stopped:
            began = None
            async for _ in await self._client.completions.create(
                model=name, prompt="Once", max_tokens=TOKENS, stream=True, extra_body={"ignore_eos": True}
            ):
                if began is None:
                    began = time.monotonic()
                    self.running[name] += 1
            assert began is not None
            self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)
            self.running[name] -= 1
            self.gaps[name] += self.running[name] == 0


async def lonely(client: openai.AsyncOpenAI) -> float:
    """Seconds until the first token of a lonely request."""
    began = time.monotonic()
    stream = await client.completions.create(model="lonely", prompt="Hi", max_tokens=4, stream=True)
    async for _ in stream:
        return time.monotonic() - began
    raise AssertionError("no answer")


def test_a_lonely_request_beside_a_hot_set_is_answered_within_the_bound(narrow: Server) -> None:
    async def main() -> None:
        async with narrow.async_client(timeout=120) as client:
            await lonely(client)  # from here on it is resident, and the engine is warm
            heat = Heat(client)
            streams = [asyncio.create_task(heat.stream(name, n * 1.3)) for name in HOT for n in range(STREAMS)]
            await asyncio.sleep(6)
            gaps = sum(heat.gaps.values())
            waits = []
            for _ in range(3):
                waits.append(await lonely(client))
                await asyncio.sleep(3)
            heat.stopped = True
            await asyncio.gather(*streams)
        assert gaps == 0, "the hot set left a gap by itself: this run shows nothing"
        assert max(waits) > QUANTUM_SECONDS / 10
        # One second for the way through the gateway and the prompt, on a machine that others use too.
        bound = QUANTUM_SECONDS + heat.longest_seconds + TICK_SECONDS + 1
        assert max(waits) <= bound, (waits, heat.longest_seconds)

    asyncio.run(main())
    # Its waiting was counted as queueing.
    assert narrow.metric("loradock_queue_seconds_sum", adapter="lonely") > 0.1
    assert narrow.metric("loradock_queue_seconds_count", adapter="lonely") == 4


def test_a_line_that_is_full_answers_429_with_the_time_to_come_back(narrow: Server) -> None:
    async def main() -> None:
        async with narrow.async_client(timeout=120) as client:

            async def ask(name: str, tokens: int) -> None:
                await client.completions.create(
                    model=name, prompt="Once", max_tokens=tokens, extra_body={"ignore_eos": True}
                )

            hot = [asyncio.create_task(ask(name, 400)) for name in HOT]
            await asyncio.sleep(0.5)
            waiting = [asyncio.create_task(ask("lonely", 1)) for _ in range(2)]
            await asyncio.sleep(0.3)
            with pytest.raises(openai.RateLimitError) as refused:
                await ask("lonely", 1)
            assert refused.value.code == "adapter_queue_full"
            assert int(refused.value.response.headers["retry-after"]) >= 1
            waiting[0].cancel()  # a client that leaves its place in the line leaves it to others
            await asyncio.sleep(0.3)
            await ask("lonely", 1)
            await asyncio.gather(*hot, waiting[1])

    asyncio.run(main())
