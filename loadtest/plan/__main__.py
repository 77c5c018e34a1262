"""`python -m loadtest.plan`: train a few steps in many ways, and put the peaks beside what `loradock plan` says."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from loadtest.plan.measure import Case
from loadtest.plan.recorded import planned_bytes
from loradock_adapters.planning.reading import read_shape
from loradock_adapters.planning.shape import ModelShape
from loradock_adapters.processor import Processor

ALL = ("all-linear",)
CASES = (
    Case("qlora", 16, ALL, 8, 256),
    Case("qlora", 16, ALL, 8, 256, checkpointing=True),
    Case("lora", 16, ALL, 8, 256),
    Case("lora", 16, ALL, 8, 256, checkpointing=True),
    Case("lora", 16, ("q_proj", "v_proj"), 4, 512),
    Case("full", 1, ALL, 4, 256),
    Case("full", 1, ALL, 4, 256, checkpointing=True),
    Case("qlora", 16, ALL, 2, 1024),
    Case("qlora", 8, ALL, 16, 256, dropout=0.05),
)
BASE = Path("var/base/smollm2-135m-instruct")
PACKAGES = ("torch", "transformers", "peft", "trl", "bitsandbytes")


def cases_for(processor: Processor) -> tuple[Case, ...]:
    """All in the numbers that training computes in here; where that is bf16, two in float32 besides."""
    if processor.multiplies_bf16 or torch.cuda.is_available():
        return (*CASES, *(replace(case, dtype="float32") for case in (CASES[0], CASES[2])))
    return tuple(replace(case, dtype="float32") for case in CASES)


def main() -> int:
    options = _options()
    shape = read_shape(options.base)
    console = Console(stderr=True)
    runs, cases = [], cases_for(Processor.here())
    for number, case in enumerate(cases, start=1):
        console.print(f"{number} of {len(cases)}: {_words(case)}")
        runs.append(_measured(options.base, case))
    report = {
        "device": runs[0]["device"],
        "processor": Processor.here().description,
        "when": time.strftime("%Y-%m-%d", time.gmtime()),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "runs": runs,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "plan.json").write_text(json.dumps(report, indent=1) + "\n")
    Console().print(_table(shape, cases, runs))
    return 0


def _measured(base: Path, case: Case) -> dict[str, Any]:
    command = [sys.executable, "-m", "loadtest.plan.measure", str(base), case.as_json()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{_words(case)} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _table(shape: ModelShape, cases: Sequence[Case], runs: list[dict[str, Any]]) -> Table:
    where = Processor.here().description if runs[0]["device"] == "cpu" else runs[0]["device"]
    drawn = Table(title=f"{shape.name} on {where}", box=None)
    for name in ("run", "measured", "planned", "error", "s a step"):
        drawn.add_column(name, justify="left" if name == "run" else "right")
    for case, run in zip(cases, runs, strict=True):
        planned, peak = planned_bytes(shape, run, on_gpu=run["device"] != "cpu"), run["peak_bytes"]
        error = f"{100 * (planned / peak - 1):+.0f} %"
        drawn.add_row(
            _words(case), f"{peak / 1e9:.2f} GB", f"{planned / 1e9:.2f} GB", error, str(run["seconds_a_step"])
        )
    return drawn


def _words(case: Case) -> str:
    parts = [case.method, f"{case.batch_size} × {case.sequence_length}"]
    if case.method != "full":
        parts += [f"rank {case.rank}", ",".join(case.targets)]
    if case.checkpointing:
        parts.append("checkpointing")
    if case.dtype != "bfloat16":
        parts.append(case.dtype)
    if case.dropout:
        parts.append("dropout")
    return ", ".join(parts)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.plan", description=__doc__)
    parser.add_argument("--base", type=Path, default=BASE, help="folder of the base model (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("var/bench"), help="where plan.json goes (default: %(default)s)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
