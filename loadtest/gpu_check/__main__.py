"""`python -m loadtest.gpu_check`: start a server, check it, write the report; exit status 0 when all passed."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from loadtest.bench import servers
from loradock_adapters.base_fetch import fetch
from loradock_adapters.base_model import BaseModel

from . import checks, hardware
from .answers import make_adapters
from .checks import SHORT, Size
from .findings import Findings

CACHE = Path("var/cache").resolve()


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what it started ends with it
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    about = hardware.about() | {"when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())}
    findings = Findings(about, lambda text: console.print(text, markup=False))
    for name, value in about.items():
        findings.say(f"{name}: {value}")
    work = Path(tempfile.mkdtemp(prefix="loradock-check-"))
    try:
        run(findings, _base(options.model, console), SHORT if options.short else _size(options), options, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        report = findings.write(options.out)
    sys.stdout.write(f"{'PASS' if findings.passed else 'FAIL'}: {report}\n")
    return 0 if findings.passed else 1


def run(findings: Findings, base: BaseModel, size: Size, options: argparse.Namespace, work: Path) -> None:
    """Every step. What cannot be done for an earlier failure's sake is not in the findings, which have failed then."""
    made = make_adapters(work / "adapters", base, size.adapters)
    findings.about |= {"model": base.name, "architecture": base.architecture}
    settings = {
        "LORADOCK_DTYPE": options.dtype,
        "LORADOCK_LOG_LEVEL": "info",
        "LORADOCK_MAX_LORAS": str(max(8, len(made))),
        "LORADOCK_MAX_CPU_LORAS": "64",
        "LORADOCK_COMPILE": "false" if options.no_compile else "true",
        "VLLM_CACHE_ROOT": str(CACHE / "vllm"),
        "TORCHINDUCTOR_CACHE_DIR": str(CACHE / "inductor"),
    }
    with contextlib.ExitStack() as held:
        dtype = ""
        with findings.step("start", "the server starts and its engine is ready") as step:
            began = time.monotonic()
            server = held.enter_context(servers.ours(base.folder, **settings))
            step.figures["ready after, s"] = time.monotonic() - began
            dtype = checks.state(step, server)
        if not dtype:
            return
        checks.check_self_test(findings, (server.home / "logs/engine.log").read_text(errors="replace"))
        checks.register(findings, server, made)
        asked, replies = checks.ask_for_oracle(findings, server, base, made, size)
        checks.check_isolation(findings, server, base, made, size, dtype)
        checks.check_hot_load(findings, server, base, made, size, work, dtype)
        checks.bench(findings, server, base, size, work)
    checks.check_oracle(findings, base, made, asked, replies, dtype, _device(options.oracle))


def _base(model: str | None, console: Console) -> BaseModel:
    if model and Path(model).is_dir():
        return BaseModel.read(Path(model))
    if model:
        from huggingface_hub import snapshot_download

        wanted = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]
        return BaseModel.read(Path(snapshot_download(model, allow_patterns=wanted)))
    return BaseModel.read(fetch(Path("var/base"), progress=console.print))


def _device(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _size(options: argparse.Namespace) -> Size:
    return Size(
        options.adapters, options.prompts, options.tokens, options.fresh, 0 if options.no_bench else options.rounds
    )


def _options() -> argparse.Namespace:
    given, parser = Size(), argparse.ArgumentParser(prog="python -m loadtest.gpu_check", description=__doc__)
    parser.add_argument(
        "--model",
        default=os.environ.get("LORADOCK_MODEL"),
        help="folder or hub id; default: MODEL, else the bundled one",
    )
    parser.add_argument("--dtype", default="auto", choices=("auto", "bfloat16", "float16", "float32"))
    parser.add_argument("--oracle", default="auto", choices=("auto", "cuda", "cpu"), help="where PEFT computes")
    parser.add_argument("--adapters", type=int, default=given.adapters, help="of each kind: loud, and as trained")
    parser.add_argument("--prompts", type=int, default=given.prompts, help="for each adapter")
    parser.add_argument("--tokens", type=int, default=given.tokens, help="of each answer")
    parser.add_argument("--fresh", type=int, default=given.fresh, help="adapters that are loaded under load")
    parser.add_argument("--rounds", type=int, default=given.rounds, help="of the bench")
    parser.add_argument("--no-bench", action="store_true")
    parser.add_argument("--no-compile", action="store_true", help="start sooner, answer slower")
    parser.add_argument("--short", action="store_true", help="a minute's worth after the start, and no bench")
    parser.add_argument("--out", type=Path, default=Path("var/gpu-check"), help="folder for report.md and report.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
