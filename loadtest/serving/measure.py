"""What a fleet takes and gives: memory after it answered, and output tokens a second with so many clients."""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time
from dataclasses import dataclass

import aiohttp

from loadtest.bench.traffic import VOCABULARY
from loadtest.gateway.servers import BenchError
from loadtest.serving.ways import Endpoint, Fleet

CLIENTS, TOKENS_IN, TOKENS_OUT, REQUESTS = 16, 64, 32, 64


@dataclass(frozen=True, slots=True)
class Found:
    """`adapters`: asked for; `served`: of them, those that found room. `memory` in bytes, of all `processes`."""

    way: str
    adapters: int
    served: int
    processes: int
    memory: int
    tokens_per_second: float


def measure(way: str, adapters: int, fleet: Fleet, rounds: int) -> Found:
    """Every adapter is asked once, so that all are in memory; then the median of some rounds. Raises BenchError."""
    speeds = asyncio.run(_speeds(fleet.endpoints, rounds))
    return Found(way, adapters, len(fleet.endpoints), fleet.processes(), fleet.memory(), statistics.median(speeds))


async def _speeds(endpoints: tuple[Endpoint, ...], rounds: int) -> list[float]:
    draw = random.Random(7)
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        await _round(session, endpoints, draw, max(CLIENTS, len(endpoints)))
        return [await _round(session, endpoints, draw, REQUESTS) for _ in range(rounds)]


async def _round(session: aiohttp.ClientSession, endpoints: tuple[Endpoint, ...], draw: random.Random, n: int) -> float:
    """Output tokens a second of n requests, CLIENTS at a time, the adapters in turn."""
    turns = iter(list(itertools.islice(itertools.cycle(endpoints), n)))

    async def client() -> None:
        for endpoint in turns:
            await _ask(session, endpoint, [draw.choice(VOCABULARY) for _ in range(TOKENS_IN)])

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return n * TOKENS_OUT / (time.perf_counter() - began)


async def _ask(session: aiohttp.ClientSession, endpoint: Endpoint, prompt: list[int]) -> None:
    """A prompt that no cache has seen, and an answer of exactly so many tokens."""
    body = {"model": endpoint.model, "prompt": prompt, "max_tokens": TOKENS_OUT, "temperature": 0, "ignore_eos": True}
    headers = {"authorization": f"Bearer {endpoint.key}"}
    async with session.post(f"{endpoint.url}/v1/completions", json=body, headers=headers) as response:
        if response.status != 200:
            raise BenchError(f"{endpoint.model}: {response.status} {(await response.text())[:300]}")
        made = (await response.json())["usage"]["completion_tokens"]
    if made != TOKENS_OUT:
        raise BenchError(f"{endpoint.model} gave {made} tokens instead of {TOKENS_OUT}")
