"""`python -m loadtest`: find the server, warm it up, drive it, report. See options.py for what it takes."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import json
import os
import secrets
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import aiohttp
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from loadtest.client import LINE_LIMIT_BYTES, Client, Generation, ServerUnusable
from loadtest.drive import Limits, Run, drive
from loadtest.options import Options, read_options
from loadtest.report import Thresholds, as_json, notes, summarize, table
from loadtest.target import find_target
from loadtest.workload import Arrivals, Popularity, TokenScale, Workload

GOOD, BROKEN, UNUSABLE = 0, 1, 2
PROBE_WORDS = (16, 80)
WARM_UP = Generation(max_tokens=8)
REPORT_COLUMNS = 120


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one load test and return the exit status."""
    options = read_options(arguments)
    console = Console(stderr=True)
    try:
        return asyncio.run(load_test(options, console))
    except ServerUnusable as error:
        console.print(f"[red]{error}[/]", highlight=False)
        return UNUSABLE


async def load_test(options: Options, console: Console) -> int:
    """The whole test; progress and remarks go to `console`, the report to standard output."""
    timeout = aiohttp.ClientTimeout(total=options.timeout)
    # No limit on connections: a pool that makes requests wait would be measured as the server's delay.
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=LINE_LIMIT_BYTES) as session:
        client = Client(session, find_target(options.url, os.environ))
        offered = await client.models()
        models = choose_models(options.adapters, offered)
        # Measuring on the base model leaves cold adapters cold.
        probe = next((name for name, parent in offered.items() if parent is None), models[0])
        scale = await measure_scale(client, probe, options.seed)
        workload = plan(options, models, scale)
        if options.warm_up:
            await warm_up(client, workload, console)
        with progress_bar(options, console) as advance, stop_on_interrupt() as stop:
            run = await drive(
                client,
                workload,
                Generation(options.max_tokens, options.ignore_eos),
                Limits(options.duration, options.requests),
                concurrency=options.concurrency,
                stop=stop,
                on_outcome=advance,
            )
    return tell(options, run, models, console)


def choose_models(asked: str, offered: Mapping[str, str | None]) -> tuple[str, ...]:
    """The models to drive, in the order given. Raises ServerUnusable for a name the server does not have."""
    if asked == "all":
        adapters = tuple(name for name, parent in offered.items() if parent is not None)
        if not adapters:
            raise ServerUnusable(
                "the server lists no adapter; register one, or name models: --adapters "
                + ",".join(offered or ("NAME",))
            )
        return adapters
    names = tuple(name.strip() for name in asked.split(",") if name.strip())
    for name in names:
        if name not in offered and name.partition("@")[0] not in offered:
            near = difflib.get_close_matches(name, offered, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(offered) or 'none'}"
            raise ServerUnusable(f"the server has no model {name!r}; {hint}")
    if not names:
        raise ServerUnusable("--adapters names no model")
    return names


async def measure_scale(client: Client, model: str, seed: int) -> TokenScale:
    """Two requests of known length; a server that fails them is taken to count one token a word."""
    points: list[tuple[int, int]] = []
    for words in PROBE_WORDS:
        prompt = Workload((model,), seed, secrets.token_hex(8), words).prompt("scale")
        outcome = await client.chat(model, prompt, Generation(1))
        points.append((words, outcome.prompt_tokens))
    return TokenScale.through(*points)


def plan(options: Options, models: tuple[str, ...], scale: TokenScale) -> Workload:
    return Workload(
        models=models,
        seed=options.seed,
        nonce=secrets.token_hex(8),
        prompt_words=scale.words(options.prompt_tokens),
        popularity=Popularity.parse(options.popularity),
        arrivals=None if options.rate is None else Arrivals(options.rate, options.arrival),
    )


async def warm_up(client: Client, workload: Workload, console: Console) -> None:
    """Ask each model once, so that adapters are resident and kernels compiled when the clock starts."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        for model in bar.track(workload.models, description="warm-up"):
            outcome = await client.chat(model, workload.prompt(f"warm-up {model}"), WARM_UP)
            if outcome.error:
                console.print(f"[yellow]warm-up of {model}: {outcome.error}[/]", highlight=False)


@contextlib.contextmanager
def progress_bar(options: Options, console: Console) -> Iterator[Progressed]:
    """A bar on a terminal, nothing elsewhere; what it yields takes the run after each request."""
    columns = (
        TextColumn("[bold]load[/]"),
        BarColumn(),
        MofNCompleteColumn() if options.requests else TextColumn("{task.completed:.0f} of {task.total:.0f} s"),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=options.requests or options.duration)
        yield Progressed(bar, task, by_count=bool(options.requests))


class Progressed:
    """Shows a run's state on a bar."""

    def __init__(self, bar: Progress, task: TaskID, *, by_count: bool) -> None:
        self._bar, self._task, self._by_count = bar, task, by_count
        self._tokens = self._errors = 0

    def __call__(self, run: Run) -> None:
        latest = run.outcomes[-1]
        self._tokens += latest.output_tokens
        self._errors += latest.error is not None
        self._bar.update(
            self._task,
            completed=len(run.outcomes) if self._by_count else run.wall_seconds,
            description=f"{self._tokens / max(run.wall_seconds, 1e-9):.0f} tokens/s, {self._errors} errors",
        )


@contextlib.contextmanager
def stop_on_interrupt() -> Iterator[asyncio.Event]:
    """An event that Ctrl-C sets, so that what was measured until then is still reported."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # not in a thread, not on Windows
        loop.add_signal_handler(signal.SIGINT, stop.set)
    try:
        yield stop
    finally:
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.remove_signal_handler(signal.SIGINT)


def tell(options: Options, run: Run, models: tuple[str, ...], console: Console) -> int:
    """Print the table, write the JSON, and say which thresholds are broken; the exit status."""
    report = summarize(run.outcomes, run.wall_seconds, models, run.cut_short)
    broken = Thresholds(options.max_ttft_p95, options.max_error_rate).broken(report)
    if report.total.errors == report.total.requests:
        broken.append("no request succeeded")
    written = json.dumps(as_json(report, asdict(options), broken), indent=2)
    if options.json == "-":
        sys.stdout.write(written + "\n")
    else:
        out = Console(width=None if sys.stdout.isatty() else REPORT_COLUMNS)  # a log has no width of its own
        out.print(table(report))
        for note in notes(report):
            out.print(note, highlight=False, markup=False)
        if options.json:
            Path(options.json).write_text(written + "\n", encoding="utf-8")
    for line in broken:
        console.print(f"[red]broken:[/] {line}", highlight=False)
    return BROKEN if broken else GOOD


if __name__ == "__main__":
    sys.exit(main())
