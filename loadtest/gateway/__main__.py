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
from pathlib import Path

from rich.console import Console
from rich.table import Table

from loadtest.gateway import servers, wrk
from loadtest.gateway.servers import BenchError, Target
from loadtest.processor import processor

ONE, MANY, STREAM, FIRST = "1 client, p50 ms", "32 clients, requests/s", "stream, p50 ms", "first event, p50 ms"
CLIENTS = 32

Found = dict[str, dict[str, list[float]]]
"""Row to target to what each round measured."""


def main() -> int:
    options = _options()
    try:
        return measure(options, Console(stderr=True))
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1


def measure(options: argparse.Namespace, console: Console) -> int:
    """Every target in every round, one after the other, so that all of them meet the same machine."""
    found = _nothing()
    with ExitStack() as held:
        engine = held.enter_context(servers.fake_engine())
        targets = [engine.target]
        if not options.alone:
            targets.append(held.enter_context(servers.vllm_router(engine, options.rivals)))
        if options.litellm:
            targets.append(held.enter_context(servers.litellm(engine, options.rivals)))
        targets.append(held.enter_context(servers.ours(engine)))
        for number in range(options.rounds + 1):
            console.print(f"round {number} of {options.rounds}" if number else "warming up")
            for target in targets:
                _round(target, options.seconds if number else 1, found if number else _nothing())
    medians = {row: {name: statistics.median(values) for name, values in of.items()} for row, of in found.items()}
    report = {
        "when": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "python": platform.python_version()},
        "rounds": options.rounds,
        "seconds": options.seconds,
        "medians": medians,
        "all": {row: dict(of) for row, of in found.items()},
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gateway.json").write_text(json.dumps(report, indent=2) + "\n")
    Console(width=120).print(_table(medians, targets))
    return 0


def _nothing() -> Found:
    return defaultdict(lambda: defaultdict(list))


def _round(target: Target, seconds: int, found: Found) -> None:
    found[ONE][target.name].append(wrk.run(target, clients=1, seconds=seconds, stream=False).p50)
    found[MANY][target.name].append(wrk.run(target, clients=CLIENTS, seconds=seconds, stream=False).rate)
    found[STREAM][target.name].append(wrk.run(target, clients=1, seconds=seconds, stream=True).p50)
    found[FIRST][target.name].append(wrk.first_event(target, times=300))


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
