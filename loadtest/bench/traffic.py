"""Requests of exact lengths at a server with OpenAI's completions route, and what came of them."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import aiohttp

VOCABULARY = range(1000, 40_000)  # plain tokens of SmolLM2's vocabulary, no special ones


@dataclass(frozen=True, slots=True)
class Shape:
    """Tokens in, tokens out, and how many requests run at once."""

    tokens_in: int
    tokens_out: int
    streams: int


@dataclass(slots=True)
class Sample:
    """One answered request. Times in seconds: to the first token, then between tokens."""

    ttft: float
    gaps: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Requests that ran together. `tokens`: prompt and answer tokens of all of them; `seconds`: first to last."""

    samples: list[Sample]
    tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


class Target:
    """A server; use as an async context manager. `key`: its API key; `vocabulary`: what prompts are made of."""

    def __init__(self, url: str, key: str, vocabulary: range = VOCABULARY) -> None:
        self._url = url
        self._vocabulary = vocabulary
        self._headers = {"authorization": f"Bearer {key}"}
        self._random = random.Random(7)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Target:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=600)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def ask(self, model: str, shape: Shape) -> Sample:
        """One streamed completion with a prompt that no cache has seen. Raises RuntimeError unless it is answered."""
        assert self._session is not None
        prompt = [self._random.choice(self._vocabulary) for _ in range(shape.tokens_in)]
        body = {
            "model": model,
            "prompt": prompt,
            "max_tokens": shape.tokens_out,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        began = last = time.perf_counter()
        sample: Sample | None = None
        async with self._session.post(f"{self._url}/v1/completions", json=body, headers=self._headers) as response:
            if response.status != 200:
                raise RuntimeError(f"{model}: {response.status} {await response.text()}")
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                if b'"error"' in line[:12]:
                    raise RuntimeError(f"{model}: {json.loads(line[6:])}")
                now = time.perf_counter()
                if sample is None:
                    sample = Sample(now - began)
                else:
                    sample.gaps.append(now - last)
                last = now
        if sample is None:
            raise RuntimeError(f"{model}: the stream held nothing")
        return sample

    async def closed_loop(self, models: Iterable[str], shape: Shape, requests: int) -> Outcome:
        """`requests` in all, `shape.streams` at a time, taking the models in turn."""
        turns = iter([model for _, model in zip(range(requests), _cycle(list(models)), strict=False)])
        samples: list[Sample] = []

        async def stream() -> None:
            for model in turns:
                samples.append(await self.ask(model, shape))

        began = time.perf_counter()
        await asyncio.gather(*(stream() for _ in range(shape.streams)))
        seconds = time.perf_counter() - began
        return Outcome(samples, requests * (shape.tokens_in + shape.tokens_out), seconds)

    async def until(self, over: Callable[[], bool], models: list[str], shape: Shape) -> list[Sample]:
        """Keep `shape.streams` requests running until `over()`; returns those that ended before."""
        samples: list[Sample] = []

        async def stream(model: str) -> None:
            while not over():
                samples.append(await self.ask(model, shape))

        await asyncio.gather(*(stream(model) for _, model in zip(range(shape.streams), _cycle(models), strict=False)))
        return samples


def _cycle(models: list[str]) -> Iterable[str]:
    while True:
        yield from models
