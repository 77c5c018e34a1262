"""The command line of the load test, read into one frozen record."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from loadtest.workload import Popularity, WorkloadError

DEFAULT_DURATION_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Options:
    """What one run was asked to do; seconds and tokens as the names say."""

    url: str | None
    adapters: str
    concurrency: int
    rate: float | None
    arrival: Literal["poisson", "constant"]
    popularity: str
    prompt_tokens: int
    max_tokens: int
    ignore_eos: bool
    duration: float | None
    requests: int | None
    seed: int
    warm_up: bool
    timeout: float
    json: str | None
    max_ttft_p95: float | None
    max_error_rate: float | None


def read_options(arguments: Sequence[str] | None = None) -> Options:
    """Parse; argparse prints what is wrong and ends with status 2."""
    parser = _parser()
    values = vars(parser.parse_args(arguments))
    if values["rate"] is not None and values["concurrency"] is not None:
        parser.error("--rate (open loop) and --concurrency (closed loop) exclude each other")
    values["concurrency"] = values["concurrency"] or 8
    if values["duration"] is None and values["requests"] is None:
        values["duration"] = DEFAULT_DURATION_SECONDS
    try:
        Popularity.parse(values["popularity"])
    except WorkloadError as error:
        parser.error(str(error))
    return Options(**values)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest",
        description="Drive a running server with streaming chat completions to many adapters.",
        epilog="Exit status: 0 good, 1 a threshold is broken or no request succeeded, 2 no usable server.",
    )
    add = parser.add_argument
    add("--url", help="server; default LORADOCK_URL, else the server running on this machine")
    add("--adapters", default="all", help="comma-separated names, or `all` that the server lists (default)")
    add("--concurrency", type=_count, help="closed loop: requests under way at a time (default 8)")
    add("--rate", type=_positive, help="open loop: requests a second")
    add("--arrival", choices=("poisson", "constant"), default="poisson", help="open loop: spacing")
    add("--popularity", default="uniform", help="uniform, or zipf:S with exponent S (default uniform)")
    add("--prompt-tokens", type=_count, default=64, help="prompt length, chat template included (default 64)")
    add("--max-tokens", type=_count, default=64, help="longest answer (default 64)")
    add("--ignore-eos", action="store_true", help="make every answer exactly --max-tokens long (vLLM)")
    add("--duration", type=_positive, help="seconds to send for (default 30 without --requests)")
    add("--requests", type=_count, help="requests to send")
    add("--seed", type=int, default=0, help="fixes adapters, arrivals and prompt bodies (default 0)")
    add(
        "--no-warm-up",
        dest="warm_up",
        action="store_false",
        help="measure cold adapters too; otherwise each is asked once before the clock starts",
    )
    add("--timeout", type=_positive, default=300.0, help="seconds before a request counts as failed")
    add("--json", metavar="FILE", help="write the report there; `-` for standard output")
    add("--max-ttft-p95", type=_positive, metavar="SECONDS", help="limit for each adapter")
    add("--max-error-rate", type=_share, metavar="SHARE", help="limit for each adapter, 0 to 1")
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value
