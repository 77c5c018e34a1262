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
from loadtest.serving.fleet import Endpoint, Fleet

TOKENS_IN, TOKENS_OUT = 64, 32
CLIENTS = {16: 64, 1: 8}
"""How many ask at once, and the requests of a round of theirs."""


@dataclass(frozen=True, slots=True)
class Found:
    """`adapters`: asked for; `served`: of them, those that found room. `memory` in bytes, of all `processes`.

    Output tokens a second with 16 clients, and `alone` with one; `start_seconds` until every adapter could be asked.
    """

    way: str
    adapters: int
    served: int
    processes: int
    memory: int
    tokens_per_second: float
    alone: float
    start_seconds: float
    rounds: int


def measure(way: str, adapters: int, fleet: Fleet, rounds: int) -> Found:
    """Every adapter is asked once, so that all are in memory; then the median of some rounds. Raises BenchError."""
    many, one = asyncio.run(_speeds(fleet.endpoints, rounds))
    return Found(
        *(way, adapters, len(fleet.endpoints), fleet.processes(), fleet.memory()),
        *(many, one, fleet.start_seconds, rounds),
    )


async def _speeds(endpoints: tuple[Endpoint, ...], rounds: int) -> tuple[float, ...]:
    """Output tokens a second for each number of clients: the median of the rounds, which take turns."""
    draw = random.Random(7)
    timeout = aiohttp.ClientTimeout(total=600)
    speeds: dict[int, list[float]] = {clients: [] for clients in CLIENTS}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        await _round(session, endpoints, draw, max(CLIENTS), max(*CLIENTS, len(endpoints)))
        for _ in range(rounds):
            for clients, requests in CLIENTS.items():
                speeds[clients].append(await _round(session, endpoints, draw, clients, requests))
    return tuple(statistics.median(each) for each in speeds.values())


async def _round(
    session: aiohttp.ClientSession, endpoints: tuple[Endpoint, ...], draw: random.Random, clients: int, n: int
) -> float:
    """Output tokens a second of n requests, so many at a time, the adapters in turn."""
    turns = iter(list(itertools.islice(itertools.cycle(endpoints), n)))

    async def client() -> None:
        for endpoint in turns:
            await _ask(session, endpoint, [draw.choice(VOCABULARY) for _ in range(TOKENS_IN)])

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return n * TOKENS_OUT / (time.perf_counter() - began)


async def _ask(session: aiohttp.ClientSession, endpoint: Endpoint, prompt: list[int]) -> None:
    """A prompt that no cache has seen, and an answer of exactly so many tokens."""
    body: dict[str, object] = {
        "model": endpoint.model,
        "prompt": prompt,
        "max_tokens": TOKENS_OUT,
        "temperature": 0,
        "ignore_eos": True,
    }
    body |= endpoint.body
    headers = {"authorization": f"Bearer {endpoint.key}"}
    async with session.post(f"{endpoint.url}/v1/completions", json=body, headers=headers) as response:
        if response.status != 200:
            raise BenchError(f"{endpoint.model}: {response.status} {(await response.text())[:300]}")
        made = (await response.json())["usage"]["completion_tokens"]
    if made != TOKENS_OUT:
        raise BenchError(f"{endpoint.model} gave {made} tokens instead of {TOKENS_OUT}")
