"""`python -m loadtest.serving`: measure ways and counts, keep each result, print the table of all that are kept."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from loadtest.bench.adapters import make_adapters
from loadtest.processor import processor
from loadtest.serving import measure
from loadtest.serving.ways import WAYS, WORDS
from loradock_adapters.base_fetch import fetch
from loradock_adapters.base_model import BaseModel

COUNTS = (1, 4, 16)
RANK = 16
BEGIN, END = "<!-- measured -->", "<!-- end of measured -->"
KEPT = Path(__file__).with_name("measured.json")


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what it started ends with it
    console = Console(stderr=True)
    if not options.table:
        base = BaseModel.read(options.base or fetch(Path("var/base"), progress=console.print))
        for way in options.ways:
            for count in options.counts:
                keep(options.out, way, count, _measured(base, way, count, options.rounds, console))
    text = table(read(options.out))
    sys.stdout.write(text)
    if options.page is not None:
        before, begin, rest = options.page.read_text(encoding="utf-8").partition(BEGIN)
        _, end, after = rest.partition(END)
        options.page.write_text(f"{before}{begin}\n\n{text}\n{end}{after}", encoding="utf-8")
    return 0


def _measured(base: BaseModel, way: str, count: int, rounds: int, console: Console) -> dict[str, Any]:
    work = Path(tempfile.mkdtemp(prefix="loradock-serving-"))
    try:
        adapters = make_adapters(work, base, count, rank=RANK)
        with WAYS[way](base.folder, adapters, lambda text: console.print(f"{way}, {count} adapters: {text}")) as fleet:
            found = measure.measure(way, count, fleet, rounds)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return asdict(found) | {
        "when": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "memory": psutil.virtual_memory().total,
            "python": platform.python_version(),
        },
    }


def read(path: Path) -> dict[str, dict[str, Any]]:
    """What was measured before, by way and count."""
    kept: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return kept


def keep(path: Path, way: str, count: int, found: dict[str, Any]) -> None:
    kept = read(path) | {f"{way} {count}": found}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def table(kept: dict[str, dict[str, Any]]) -> str:
    """Markdown, as docs/serving-compared.md has it."""
    lines = [
        "| way | adapters | served | processes | memory | ready after | tokens/s, 16 clients | 1 client | when |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for way, words in WORDS.items():
        for found in sorted((one for one in kept.values() if one["way"] == way), key=lambda one: one["adapters"]):
            served = str(found["served"]) if found["served"] == found["adapters"] else f"**{found['served']}**"
            lines.append(
                f"| {words} | {found['adapters']} | {served} | {found['processes']} | {found['memory'] / 1e9:.2f} GB "
                f"| {_figure(found.get('start_seconds'), ' s')} | {found['tokens_per_second']:.0f} "
                f"| {_figure(found.get('alone'))} | {found['when']} |"
            )
    machines = dict.fromkeys(
        f"{on['cores']} cores of {on['processor']}, {on['memory'] / 1e9:.0f} GB, Python {on['python']}"
        for on in (found["machine"] for found in kept.values())
    )
    return "\n".join(lines) + f"\n\nOn {'; '.join(machines)}. Times are UTC.\n"


def _figure(value: float | None, unit: str = "") -> str:
    """Rows of 2026-11-26 lack what was measured from 2026-12-01 on."""
    return "–" if value is None else f"{value:.0f}{unit}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.serving", description=__doc__)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--counts", nargs="+", type=int, default=list(COUNTS), help="adapters")
    parser.add_argument(
        "--rounds", type=int, default=3, help="of 64 requests of 16 clients and 8 of one; their median counts"
    )
    parser.add_argument("--base", type=Path, help="the base model's folder; default: the bundled one")
    parser.add_argument("--table", action="store_true", help="measure nothing, print the table of what was measured")
    parser.add_argument("--page", type=Path, help="a Markdown file that gets the table, as docs/serving-compared.md")
    parser.add_argument("--out", type=Path, default=KEPT, help="where results are kept")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
