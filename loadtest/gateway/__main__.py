"""`python -m loadtest.gateway`: one fake engine, asked directly and through gateways; the table, and JSON beside it."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from loadtest.gateway import servers, wrk
from loadtest.gateway.servers import BenchError, Target
from loadtest.processor import processor

ONE, MANY, STREAM, FIRST = "1 client, p50 ms", "32 clients, requests/s", "stream, p50 ms", "first event, p50 ms"
CLIENTS = 32
CHEAPEST = "round_robin"  # of the router's policies; as it comes it looks for the worker that has the prompt cached

Found = dict[str, dict[str, list[float]]]
"""Row to target to what each round measured."""


def main() -> int:
    options = _options()
    console = Console(stderr=True)
    try:
        if options.engine:
            return _engine(options)
        return _idle(options) if options.idle else measure(options, console)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1


def measure(options: argparse.Namespace, console: Console) -> int:
    """Every target in every round, one after the other, so that all of them meet the same machine."""
    found = _nothing()
    with ExitStack() as held:
        engine = held.enter_context(servers.fake_engine(f"--work={options.work}"))
        targets = [engine.target]
        if not options.alone:
            for policy in (None, CHEAPEST):
                targets.append(held.enter_context(servers.vllm_router(engine, options.rivals, policy)))
        if options.litellm:
            targets.append(held.enter_context(servers.litellm(engine, options.rivals)))
        targets.append(held.enter_context(servers.ours(engine)))
        if options.workers > 1:
            name = f"{targets[-1].name}, {options.workers} workers"
            targets.append(held.enter_context(servers.ours(engine, name, LORADOCK_WORKERS=str(options.workers))))
        for number in range(options.rounds + 1):
            console.print(f"round {number} of {options.rounds}" if number else "warming up")
            for target in targets:
                _round(target, options.seconds if number else 1, found if number else _nothing())
    medians = {row: {name: statistics.median(values) for name, values in of.items()} for row, of in found.items()}
    _write(
        options.out / "gateway.json",
        {
            "rounds": options.rounds,
            "seconds": options.seconds,
            "work_us": options.work,
            "medians": medians,
            "all": {row: dict(of) for row, of in found.items()},
        },
    )
    Console(width=120).print(_table(medians, targets))
    return 0


def _idle(options: argparse.Namespace) -> int:
    from loadtest.gateway import idle

    found = idle.measure(options.idle, options.workers)
    _write(options.out / "gateway-idle.json", asdict(found))
    Console().print(
        f"{found.streams} idle streams, {found.workers} gateway process(es): {found.held:.0f} MB resident "
        f"({found.before:.0f} MB before); a request beside them takes {found.answer:.1f} ms"
    )
    return 0


def _engine(options: argparse.Namespace) -> int:
    from loadtest.gateway import real_engine

    found = real_engine.measure(options.rounds)
    _write(options.out / "gateway-engine.json", asdict(found))
    Console().print(
        f"real engine: {found.tokens_gateway:.0f} tokens/s through the gateway, {found.tokens_direct:.0f} directly: "
        f"{found.throughput:.3f}; first token {found.first_gateway:.1f} and {found.first_direct:.1f} ms: "
        f"{found.added:+.2f} ms"
    )
    return 0


def _write(path: Path, found: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "when": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "python": platform.python_version()},
        **found,
    }
    path.write_text(json.dumps(report, indent=2) + "\n")


def _nothing() -> Found:
    return defaultdict(lambda: defaultdict(list))


def _round(target: Target, seconds: int, found: Found) -> None:
    found[ONE][target.name].append(wrk.run(target, clients=1, seconds=seconds, stream=False).p50)
    found[MANY][target.name].append(wrk.run(target, clients=CLIENTS, seconds=seconds, stream=False).rate)
    found[STREAM][target.name].append(wrk.run(target, clients=1, seconds=seconds, stream=True).p50)
    found[FIRST][target.name].append(wrk.first_event(target, seconds=seconds))


def _table(medians: dict[str, dict[str, float]], targets: Sequence[Target]) -> Table:
    """Times as what is added to the direct ones, which stand in the first column."""
    cores = os.cpu_count()
    title = f"wrk, fake engine and gateway share {cores} cores; times but the direct ones: what is added"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for target in targets:
        table.add_column(target.name, justify="right")
    for row, of in medians.items():
        direct = of[targets[0].name]
        if row == MANY:
            cells = [f"{of[target.name]:.0f}" for target in targets]
        else:
            cells = [f"{direct:.3f}", *(f"+{of[target.name] - direct:.3f}" for target in targets[1:])]
        table.add_row(row, *cells)
    return table


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.gateway", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of each run of wrk")
    parser.add_argument("--litellm", action="store_true", help="LiteLLM's proxy too; its virtual environment is 1 GB")
    parser.add_argument("--workers", type=int, default=1, help="above 1: our gateway with so many workers too")
    parser.add_argument("--idle", type=int, metavar="N", help="instead: hold N streams that say nothing")
    parser.add_argument("--engine", action="store_true", help="instead: the real engine, directly and through")
    parser.add_argument(
        "--work",
        type=float,
        default=50,
        metavar="US",
        help="microseconds of work that a request is to the fake engine (default: 50, which no real one is as fast as)",
    )
    parser.add_argument("--alone", action="store_true", help="no other gateways")
    parser.add_argument(
        "--rivals", type=Path, default=Path("var/bench/rivals"), help="their virtual environments, made if missing"
    )
    parser.add_argument("--out", type=Path, default=Path("var/bench"))
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds < 1:
        parser.error("at least 1 round of 1 second")
    return options


if __name__ == "__main__":
    raise SystemExit(main())
