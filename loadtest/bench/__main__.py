"""`python -m loadtest.bench`: run the rows asked for, print the table, write JSON and a plot beside it."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from loadtest.processor import processor
from loradock_adapters.base_fetch import fetch
from loradock_adapters.base_model import BaseModel
from loradock_adapters.processor import Processor

from . import rows, servers
from .adapters import make_adapters
from .rows import Row
from .tables import console_table, described, markdown, put_into

SECTIONS = ("throughput", "base", "slots", "hot-load", "zipf")


def main() -> int:
    options = _options()
    console = Console(stderr=True)
    path = options.out / "engine.json"
    if options.table:
        report = json.loads(path.read_text(encoding="utf-8"))
    else:
        report = _measured(options, console)
        options.out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    ours, stock = ([Row(**row) for row in report[kind]] for kind in ("ours", "stock"))
    _plot(ours, {row.name: row.ratio for row in stock}, options.out / "engine.png")
    if options.page is not None:
        page = options.page.read_text(encoding="utf-8")
        options.page.write_text(put_into(page, report["machine"]["level"], markdown(report)), encoding="utf-8")
    Console().print(console_table(ours, {row.name: row.ratio for row in stock}, described(report)))
    return 0 if all(row.reached in (True, None) for row in ours) else 1


def _measured(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    work = Path(tempfile.mkdtemp(prefix="loradock-bench-adapters-"))
    engine: dict[str, str] = {}
    try:
        ours, stock = asyncio.run(measure(options, work, console, engine))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return {
        "when": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
        "machine": {
            "processor": processor(),
            "level": Processor.here().level,
            "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
        },
        "engine": engine,
        "ours": [asdict(row) for row in ours],
        "stock": [asdict(row) for row in stock],
    }


async def measure(
    options: argparse.Namespace, work: Path, console: Console, engine: dict[str, str]
) -> tuple[list[Row], list[Row]]:
    """Ours and stock vLLM, one server at a time; `engine` gets what ours says of itself."""
    base = BaseModel.read(fetch(Path("var/base"), progress=console.print))
    wanted = set(options.only)
    ours: list[Row] = []
    stock: list[Row] = []
    adapters = make_adapters(work / "resident", base, 32)
    names = [name for name, _ in adapters]
    if wanted & {"throughput", "base", "slots", "hot-load"}:
        console.print("our server: 8 slots")
        with servers.ours(base.folder, LORADOCK_MAX_LORAS="8", LORADOCK_MAX_CPU_LORAS="64") as server:
            engine |= said_by(server)
            await rows.register(server, adapters)
            if "throughput" in wanted:
                ours += await rows.throughput_rows(server, names, rounds=options.rounds, goals=True)
            if "base" in wanted:
                with_lora = await rows.base_speed(server, options.rounds)
            if "slots" in wanted:
                waits = await rows.slots_row(server, names)
                ours.append(waits)
            if "hot-load" in wanted:
                fresh = make_adapters(work / "fresh", base, options.fresh, rank=32)  # 20 MB each
                renamed = [(f"fresh-{name}", folder) for name, folder in fresh]
                await rows.register(server, renamed)
                ours.append(await rows.hot_load_row(server, names, [name for name, _ in renamed], touch(server)))
                shutil.rmtree(work / "fresh")
    if "slots" in wanted:
        console.print("our server: 32 slots")
        few = waits.detail["8 over 8, s"]
        with servers.ours(base.folder, LORADOCK_MAX_LORAS="32", LORADOCK_MAX_CPU_LORAS="64") as server:
            await rows.register(server, adapters)
            wide = (await rows.first_tokens(server, names, (32,)))[32]
        detail = {"8 over 8, s": few, "32 over 32, s": wide}
        ours.append(Row("32 adapters over 32 slots / 8 over 8, median TTFT", wide / few, None, False, detail))
    if "base" in wanted:
        console.print("stock vLLM, LoRA off")
        with servers.stock(base.folder, [], slots=0, memory=0, rank=0) as server:
            without = await rows.base_speed(server, options.rounds)
        detail = {"LoRA off, tokens/s": without, "LoRA on, tokens/s": with_lora}
        ours.append(Row("base only, LoRA enabled / disabled", with_lora / without, 0.95, detail=detail))
    if "throughput" in wanted and not options.no_stock:
        console.print("stock vLLM, LoRA on: 8 slots")
        with servers.stock(base.folder, adapters[:8], slots=8, memory=64, rank=64) as server:
            stock += await rows.throughput_rows(server, names, rounds=1, goals=False)
    if "zipf" in wanted:
        console.print(f"our server: {options.registered} registered adapters")
        many = make_adapters(work / "many", base, options.registered, rank=8)
        with servers.ours(base.folder, LORADOCK_MAX_LORAS="8", LORADOCK_MAX_CPU_LORAS="64") as server:
            engine |= said_by(server)
            await rows.register(server, many)
            ours.append(await rows.zipf_row(server, [name for name, _ in many], options.requests))
    return ours, stock


def said_by(server: servers.Running) -> dict[str, str]:
    """The dtype and the way that LoRA is computed; the bench tells its figures' readers both."""
    state = server.engine_state()
    return {name: str(state.get(name, "unknown")) for name in ("dtype", "kernel")}


def touch(server: servers.Running) -> Callable[[str], None]:
    """A function that has one adapter answer, so that it is loaded."""

    def load(name: str) -> None:
        body = json.dumps({"model": name, "prompt": "x", "max_tokens": 1}).encode()
        headers = {"authorization": f"Bearer {server.key}", "content-type": "application/json"}
        request = urllib.request.Request(f"{server.url}/v1/completions", body, headers)
        with urllib.request.urlopen(request, timeout=60) as response:
            response.read()

    return load


def _plot(ours: list[Row], stock: dict[str, float], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 0.7 * len(ours) + 1.2), layout="constrained")
    heights = range(len(ours))
    axes.barh([h - 0.18 for h in heights], [row.ratio for row in ours], 0.34, label="LoRADock", color="#0969da")
    axes.barh([h + 0.18 for h in heights], [stock.get(row.name, 0) for row in ours], 0.34, label="stock vLLM 0.32",
              color="#9a6700")  # fmt: skip
    for height, row in zip(heights, ours, strict=True):
        if row.goal is not None:
            axes.plot([row.goal] * 2, [height - 0.4, height + 0.4], color="#1f2328", linewidth=1)
    axes.set_yticks(list(heights), [row.name for row in ours])
    axes.invert_yaxis()
    axes.set_xlabel("ratio; the line is the goal")
    axes.legend()
    figure.savefig(path, dpi=120)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="rows to measure")
    parser.add_argument("--rounds", type=int, default=3, help="alternations per ratio")
    parser.add_argument("--fresh", type=int, default=60, help="adapters to hot-load")
    parser.add_argument("--registered", type=int, default=1000, help="adapters for the Zipf row")
    parser.add_argument("--requests", type=int, default=200, help="requests of the Zipf row")
    parser.add_argument("--no-stock", action="store_true", help="leave stock vLLM's LoRA rows out (they are slow)")
    parser.add_argument("--out", type=Path, default=Path("var/bench"), help="folder for engine.json and engine.png")
    parser.add_argument("--table", action="store_true", help="measure nothing: take the engine.json that is there")
    parser.add_argument("--page", type=Path, help="a Markdown file that gets this processor's table, as docs/engine.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
