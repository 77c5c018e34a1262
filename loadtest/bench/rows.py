"""The rows of the benchmark's table: what is measured, against what, and the goal."""

from __future__ import annotations

import asyncio
import io
import itertools
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from loradock_adapters.processor import Processor

from .servers import Running
from .traffic import Outcome, Shape, Target

PREFILL = Shape(tokens_in=512, tokens_out=8, streams=8)
DECODE = Shape(tokens_in=64, tokens_out=64, streams=8)
Say = Callable[[str], None]
# By what the processor has: one adapter, eight adapters. AVX2 leaves more of a step to the base, so an adapter weighs
# less beside it.
PREFILL_GOALS = {"avx2": (0.96, 0.95)}
DECODE_GOALS = {"avx2": (0.95, 0.90)}


@dataclass(slots=True)
class Row:
    """One line of the table. `ratio` is measured over reference; `higher`: whether more of it is better."""

    name: str
    ratio: float
    goal: float | None
    higher: bool = True
    detail: dict[str, float] = field(default_factory=dict)

    @property
    def reached(self) -> bool | None:
        if self.goal is None:
            return None
        return self.ratio >= self.goal if self.higher else self.ratio <= self.goal


async def shares(
    target: Target, shape: Shape, mixes: dict[str, list[str]], rounds: int, requests: int
) -> dict[str, float]:
    """Throughput of each mix of models over that of the mix called "base": the median of `rounds` alternations."""
    ratios: dict[str, list[float]] = {name: [] for name in mixes}
    for name in mixes:  # warm: adapters in memory, kernels compiled
        await target.closed_loop(mixes[name], shape, shape.streams)
    for _ in range(rounds):
        measured: dict[str, Outcome] = {}
        for name, models in mixes.items():
            measured[name] = await target.closed_loop(models, shape, requests)
        for name, outcome in measured.items():
            ratios[name].append(outcome.tokens_per_second / measured["base"].tokens_per_second)
            ratios.setdefault(name + " tokens/s", []).append(outcome.tokens_per_second)
    return {name: statistics.median(values) for name, values in ratios.items()}


async def throughput_rows(server: Running, names: list[str], *, rounds: int, goals: bool) -> list[Row]:
    """Prefill and decode with one adapter and with eight, over the base on the same server."""
    mixes = {"base": [server.base], "one": names[:1], "eight": names[:8]}
    rows = []
    level = Processor.here().level
    prefill, decode = PREFILL_GOALS.get(level, (0.95, 0.95)), DECODE_GOALS.get(level, (0.92, 0.88))
    async with Target(server.url, server.key, server.vocabulary) as target:
        for title, shape, goal in (("prefill 512/8", PREFILL, prefill), ("decode 64/64", DECODE, decode)):
            found = await shares(target, shape, mixes, rounds, requests=16)
            for mix, wanted in zip(("one", "eight"), goal, strict=True):
                detail = {"base tokens/s": found["base tokens/s"], "tokens/s": found[f"{mix} tokens/s"]}
                label = "one adapter" if mix == "one" else "eight adapters"
                rows.append(Row(f"{title}, 8 streams, {label}", found[mix], wanted if goals else None, detail=detail))
    return rows


async def base_speed(server: Running, rounds: int) -> float:
    """Base-only tokens per second, decoding."""
    async with Target(server.url, server.key, server.vocabulary) as target:
        await target.closed_loop([server.base], DECODE, DECODE.streams)
        speeds = [(await target.closed_loop([server.base], DECODE, 16)).tokens_per_second for _ in range(rounds)]
    return statistics.median(speeds)


async def slots_row(server: Running, names: list[str]) -> Row:
    """Median TTFT of 16 streams over 32 adapters, against the same over 8: both through 8 slots."""
    waits = await first_tokens(server, names, (8, 32))
    return Row("32 adapters over 8 slots / 8 over 8, median TTFT", waits[32] / waits[8], 1.5, higher=False,
               detail={"8 over 8, s": waits[8], "32 over 8, s": waits[32]})  # fmt: skip


async def first_tokens(server: Running, names: list[str], counts: tuple[int, ...]) -> dict[int, float]:
    """Median TTFT in seconds of 16 streams over the first so many adapters, by that number."""
    shape = Shape(tokens_in=64, tokens_out=32, streams=16)
    async with Target(server.url, server.key, server.vocabulary) as target:
        for start in range(0, max(counts), 8):
            await target.closed_loop(names[start : start + 8], shape, 8)
        found: dict[int, list[float]] = {count: [] for count in counts}
        for _ in range(3):
            for count in counts:
                outcome = await target.closed_loop(names[:count], shape, 64)
                found[count].append(statistics.median(sample.ttft for sample in outcome.samples))
    return {count: statistics.median(values) for count, values in found.items()}


async def hot_load_row(
    server: Running,
    names: list[str],
    fresh: list[str],
    load: Callable[[str], object],
    *,
    turns: int = 3,
    requests: int = 8,
) -> Row:
    """p99 gap between tokens of decoding streams while a new adapter is loaded every 250 ms, against quiet."""
    shape = Shape(tokens_in=64, tokens_out=128, streams=4)
    async with Target(server.url, server.key, server.vocabulary) as target:
        await target.closed_loop(names[:4], shape, 4)
        gaps: dict[str, list[float]] = {"quiet": [], "loading": []}
        supply = iter(fresh)
        for _ in range(turns):
            quiet = await target.closed_loop(names[:4], shape, requests)
            gaps["quiet"] += [gap for sample in quiet.samples for gap in sample.gaps]
            done = asyncio.Event()

            async def loads(done: asyncio.Event = done) -> None:
                while not done.is_set():
                    began = time.monotonic()
                    name = next(supply, None)
                    if name is None:
                        return
                    await asyncio.to_thread(load, name)
                    await asyncio.sleep(max(0.0, 0.25 - (time.monotonic() - began)))

            loading = asyncio.create_task(loads())
            busy = await target.closed_loop(names[:4], shape, requests)
            done.set()
            await loading
            gaps["loading"] += [gap for sample in busy.samples for gap in sample.gaps]
    quiet_p99, busy_p99 = (_percentile(gaps[kind], 99) for kind in ("quiet", "loading"))
    return Row("p99 gap between tokens, an adapter loaded every 250 ms / quiet", busy_p99 / quiet_p99, 1.5,
               higher=False, detail={"quiet, ms": quiet_p99 * 1e3, "loading, ms": busy_p99 * 1e3})  # fmt: skip


async def zipf_row(server: Running, names: list[str], requests: int) -> Row:
    """Throughput with every registered adapter asked for by Zipf(1.0), against eight that stay in memory."""
    shape = Shape(tokens_in=64, tokens_out=32, streams=8)
    weights = list(itertools.accumulate(1 / rank for rank in range(1, len(names) + 1)))
    drawn = random.Random(1).choices(names, cum_weights=weights, k=requests)
    async with Target(server.url, server.key, server.vocabulary) as target:
        await target.closed_loop(names[:8], shape, 8)
        resident = await target.closed_loop(names[:8], shape, requests)
        many = await target.closed_loop(drawn, shape, requests)
    return Row(f"{len(names)} adapters by Zipf(1.0) / 8 in memory, throughput",
               many.tokens_per_second / resident.tokens_per_second, 0.8,
               detail={"8, tokens/s": resident.tokens_per_second, "Zipf, tokens/s": many.tokens_per_second,
                       "distinct": len(set(drawn))})  # fmt: skip


async def register(server: Running, adapters: list[tuple[str, Path]]) -> None:
    """Upload adapters to one of our servers."""
    headers = {"authorization": f"Bearer {server.key}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for name, folder in adapters:
            form = aiohttp.FormData()
            for path in sorted(folder.iterdir()):
                form.add_field("file", io.BytesIO(path.read_bytes()), filename=path.name)
            async with session.post(f"{server.url}/admin/adapters/{name}/versions", data=form) as response:
                if response.status not in (200, 201):
                    raise RuntimeError(f"{name}: {response.status} {await response.text()}")


def _percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
