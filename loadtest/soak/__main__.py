"""`python -m loadtest.soak`: a gateway and a fake engine under churn for half an hour; a table, soak.json, soak.png.

With --engine it is `loradock serve` on the bundled model, seen from outside.

Exits with 1 when something grew, or when somebody got an answer that nobody should get.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from loadtest.gateway.fake_engine import MODEL
from loadtest.gateway.servers import (
    ADMIN_KEY,
    ENGINE_TOKEN,
    Engine,
    fake_engine,
    free_port,
    process,
    wait_for,
)
from loadtest.processor import processor
from loadtest.soak.churn import Churn
from loadtest.soak.verdict import ALLOWED, ALLOWED_OF_AN_ENGINE, MEBIBYTE, WARM_UP, Verdict, judge

ENGINE_LIVES_SECONDS = 60.0
PATIENCE_SECONDS = 60.0


def main() -> int:
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    samples_file = options.out / "samples.jsonl"
    samples_file.unlink(missing_ok=True)
    if options.engine:
        from loadtest.soak import real_engine

        churn = real_engine.soak(options.minutes, options.rate, options.change_every, options.every, samples_file)
    else:
        with fake_engine() as engine, _gateway(engine, options.every, samples_file) as url:
            churn = asyncio.run(_run(url, engine, options))
    samples = [json.loads(line) for line in samples_file.read_text().splitlines()]
    verdicts = judge(samples, ALLOWED_OF_AN_ENGINE if options.engine else ALLOWED)
    report = {
        "when": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "python": platform.python_version()},
        "minutes": options.minutes,
        "requests_per_second": options.rate,
        "done": dict(churn.done),
        "surprises": churn.surprises,
        "verdicts": [asdict(verdict) | {"flat": verdict.is_flat} for verdict in verdicts],
        "samples": samples,
    }
    (options.out / "soak.json").write_text(json.dumps(report, indent=2) + "\n")
    if not options.engine:
        plot(samples, options.out / "soak.png")
    console = Console()
    console.print(_table(verdicts, samples))
    console.print(f"done: {dict(sorted(churn.done.items()))}")
    for surprise in churn.surprises:
        console.print(f"surprise: {surprise}", markup=False)
    return 0 if all(verdict.is_flat for verdict in verdicts) and not churn.surprises else 1


async def _run(url: str, engine: Engine, options: argparse.Namespace) -> Churn:
    limits = httpx.Limits(max_connections=100, max_keepalive_connections=20)
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=PATIENCE_SECONDS, trust_env=False, limits=limits
    ) as http:
        churn = Churn(http, MODEL, random.Random(options.seed))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(options.minutes * 60), asyncio.TaskGroup() as tasks:
                tasks.create_task(churn.clients(options.rate))
                tasks.create_task(churn.operators(options.change_every))
                tasks.create_task(_break_connections(engine, churn))
        return churn


async def _break_connections(engine: Engine, churn: Churn) -> None:
    """The engine stands still for three seconds each minute: long enough to be found not ready."""
    while True:
        await asyncio.sleep(ENGINE_LIVES_SECONDS)
        os.kill(engine.pid, signal.SIGSTOP)
        churn.engine_up = False
        await asyncio.sleep(3)
        os.kill(engine.pid, signal.SIGCONT)
        await asyncio.sleep(3)
        churn.engine_up = True
        churn.done["engine stopped"] += 1


@contextlib.contextmanager
def _gateway(engine: Engine, every: float, samples: Path) -> Iterator[str]:
    home = engine.folder / "soak"
    home.mkdir()
    port, log = free_port(), home / "gateway.log"
    environment = {
        "LORADOCK_HOME": str(home),
        "LORADOCK_PORT": str(port),
        "LORADOCK_MODEL": str(engine.base.folder),
        "LORADOCK_SERVED_MODEL_NAME": MODEL,
        "LORADOCK_ADMIN_KEY": ADMIN_KEY,
        "LORADOCK_ENGINE_URL": f"unix:{engine.socket}",
        "LORADOCK_ENGINE_TOKEN": ENGINE_TOKEN,
        "LORADOCK_SMOKE_PROBE": "off",
        # Series of metrics come with every new name and version until their bounds are reached, which takes hours here:
        # most of these share `other` from the start. tests/server/telemetry/test_labels.py holds the bounds.
        "LORADOCK_METRICS_ADAPTER_LIMIT": "4",
        "LORADOCK_LOG_LEVEL": "warning",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.01",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
    }
    command = [sys.executable, "-m", "loadtest.soak.gateway", str(every), str(samples.absolute())]
    with process(command, environment, log) as running:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/readyz", running, log)
        yield url


def _table(verdicts: Sequence[Verdict], samples: Sequence[dict[str, Any]]) -> Table:
    table = Table(title=f"{samples[-1]['seconds'] / 60:.0f} minutes of churn; the first {WARM_UP:.0%} are warm-up")
    for column in ("", "after warm-up", "at the end", "growth by the line", "an hour", "allowed", ""):
        table.add_column(column, justify="left" if not column else "right")
    for one in verdicts:
        unit, form = (MEBIBYTE, "{:.1f} MiB") if one.what.endswith("rss") else (1, "{:.1f}")
        numbers = (one.first, one.last, one.growth, one.per_hour, one.allowed)
        said = "flat" if one.is_flat else "GROWS"
        table.add_row(one.what, *[form.format(number / unit) for number in numbers], said)
    return table


def plot(samples: Sequence[Mapping[str, float]], path: Path) -> None:
    """Memory above, what is counted below, over time; the warm-up is grey."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    minutes = [sample["seconds"] / 60 for sample in samples]
    figure, (memory, counts) = pyplot.subplots(2, 1, figsize=(9, 5), sharex=True, layout="constrained")
    memory.plot(minutes, [sample["rss"] / MEBIBYTE for sample in samples], color="#0969da")
    memory.set_ylim(0, max(sample["rss"] for sample in samples) / MEBIBYTE * 1.25)
    memory.set_ylabel("resident, MiB")
    for what, color in (("files", "#9a6700"), ("tasks", "#1a7f37"), ("threads", "#8250df")):
        counts.plot(minutes, [sample[what] for sample in samples], label=what, color=color)
    counts.set_ylim(bottom=0)
    counts.set_xlabel("minutes")
    counts.legend()
    for axes in (memory, counts):
        axes.axvspan(0, minutes[-1] * WARM_UP, color="#eaeef2")
    figure.savefig(path, dpi=120)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30, help="how long")
    parser.add_argument(
        "--engine", action="store_true", help="the real engine, its processes too; --rate 2 for two cores"
    )
    parser.add_argument("--rate", type=float, default=20, help="requests a second")
    parser.add_argument("--change-every", type=float, default=1, help="seconds between an operator's changes")
    parser.add_argument("--every", type=float, default=10, help="seconds between two samples")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("var/soak"), help="folder for soak.json and soak.png")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
