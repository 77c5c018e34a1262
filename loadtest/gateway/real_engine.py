"""The real engine, asked on its socket and through the gateway, in turns: throughput, and time to first token."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from loadtest.bench import servers
from loadtest.client import Client, Generation, Outcome, Target
from loadtest.gateway.servers import BenchError
from loradock_adapters.base_fetch import fetch
from loradock_server import wire

CLIENTS, TOKENS, REQUESTS = 8, 64, 24
_WORDS = ("river", "stone", "cloud", "engine", "letter", "garden", "window", "copper", "winter", "signal")


@dataclass(frozen=True, slots=True)
class Found:
    """Output tokens per second with 8 clients, and milliseconds to the first token with one; medians of all rounds.

    `throughput`: what comes through the gateway over what comes directly; `added`: milliseconds to the first token that
    the gateway adds. Both are medians over pairs, of which one followed the other at once.
    """

    tokens_direct: float
    tokens_gateway: float
    first_direct: float
    first_gateway: float
    throughput: float
    added: float


def measure(rounds: int) -> Found:
    """`loradock serve` with the bundled base model on this machine, not compiled, so that it starts within a minute.

    Raises BenchError when a request fails.
    """
    token = secrets.token_urlsafe(24)
    base = fetch(Path("var/base"))
    with servers.ours(base, LORADOCK_ENGINE_TOKEN=token, LORADOCK_COMPILE="false") as running:
        return asyncio.run(_measure(running, token, rounds))


async def _measure(running: servers.Running, token: str, rounds: int) -> Found:
    tokens: dict[str, list[float]] = {"direct": [], "gateway": []}
    first: dict[str, list[float]] = {"direct": [], "gateway": []}
    dice = random.Random(1)
    async with AsyncExitStack() as held:
        ways = {
            "direct": await held.enter_async_context(_directly(running, token)),
            "gateway": await held.enter_async_context(_through(running)),
        }
        for client in ways.values():
            await _throughput(client, running.base, _prompts(dice))
        for number in range(rounds):
            prompts = _prompts(dice)
            for name in _order(number):
                tokens[name].append(await _throughput(ways[name], running.base, prompts))
        for number in range(rounds * 20):
            # The same for both: the gateway's cache salt keeps the second from finding what the first left.
            prompt = _prompt(dice)
            for name in _order(number):
                asked = ways[name].chat(running.base, prompt, Generation(4, ignore_eos=True))
                first[name].append((_good(await asked).ttft_seconds or 0.0) * 1000)
    pairs = zip(tokens["gateway"], tokens["direct"], strict=True)
    delays = zip(first["gateway"], first["direct"], strict=True)
    return Found(
        tokens_direct=statistics.median(tokens["direct"]),
        tokens_gateway=statistics.median(tokens["gateway"]),
        first_direct=statistics.median(first["direct"]),
        first_gateway=statistics.median(first["gateway"]),
        throughput=statistics.median(through / directly for through, directly in pairs),
        added=statistics.median(through - directly for through, directly in delays),
    )


def _order(number: int) -> tuple[str, str]:
    """Who is asked first, in turns."""
    return ("direct", "gateway") if number % 2 == 0 else ("gateway", "direct")


def _prompts(dice: random.Random) -> list[str]:
    return [_prompt(dice) for _ in range(REQUESTS)]


async def _throughput(client: Client, model: str, prompts: list[str]) -> float:
    waiting = list(prompts)
    made = 0

    async def work() -> None:
        nonlocal made
        while waiting:
            outcome = _good(await client.chat(model, waiting.pop(), Generation(TOKENS, ignore_eos=True)))
            made += outcome.output_tokens

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(CLIENTS)))
    return made / (time.perf_counter() - began)


@asynccontextmanager
async def _through(running: servers.Running) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as session:
        yield Client(session, Target(running.url, running.key))


@asynccontextmanager
async def _directly(running: servers.Running, token: str) -> AsyncIterator[Client]:
    path = running.home / "run" / "engine.sock"
    if not path.exists():
        raise BenchError(f"the engine's socket is not at {path}; is TMPDIR very long?")
    headers = {wire.TOKEN: token, wire.GATEWAY: f"bench-{os.getpid()}"}
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path)), headers=headers) as session:
        yield Client(session, Target("http://engine"))


def _prompt(dice: random.Random) -> str:
    """Never the same twice, so that no cache helps either way."""
    return " ".join(dice.choices(_WORDS, k=60))


def _good(outcome: Outcome) -> Outcome:
    if outcome.error is not None:
        raise BenchError(f"a request failed: {outcome.error}")
    return outcome
