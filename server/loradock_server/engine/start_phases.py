"""What an engine that is starting does now, told by its log, and how long each phase took the last time here.

Times are measured on this machine: remembered from start to start, and for the first one judged by how long its own
first phase took. Knows no terminal.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from loradock_adapters.files import read_capped
from loradock_adapters.processor import Processor
from loradock_adapters.strict_json import parse_object

from .launch import LaunchOrder

TIMES_FILE = "start-times.json"
# Configurations remembered; the oldest is forgotten first.
MOST_KNOWN = 50
MAX_TIMES_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Phase:
    """`mark`: the log's words when it begins."""

    name: str
    words: str
    mark: bytes


PHASES = (
    Phase("libraries", "loading vLLM and its libraries", b""),
    Phase("weights", "loading the weights", b"Starting to load model"),
    Phase("model", "preparing the model", b"Loading weights took"),
    Phase("self-test", "testing itself", b"self-test begins"),
)
COMPILING = "compiling the model for this processor, once"
# Seconds of compiling where `libraries` takes one: SmolLM2-135M, two Zen 4 cores as AVX2, 2026-12-01, 96 s and 46 s of
# processor time (docs/engine.md, A start, and its memory).
COMPILE_SHARE = 2.1
SERVING = b" serving on "


class PhaseWatch:
    """The phases of one start as they come, from a growing log."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}  # of the phases that are over
        self.phase = PHASES[0]
        self.served = False
        self._began: float | None = None
        self._rest = b""

    def feed(self, data: bytes, now: float) -> list[Phase]:
        """Take in what the log grew by until `now`, in seconds; returns the phases that began."""
        if self._began is None:
            self._began = now
        text, began = self._rest + data, []
        for phase in PHASES[PHASES.index(self.phase) + 1 :]:
            if phase.mark in text:
                self._over(now)
                self.phase = phase
                began.append(phase)
        if not self.served and SERVING in text:
            self.served = True
            self._over(now)
        self._rest = text[-64:]  # a mark may come in two halves
        return began

    def _over(self, now: float) -> None:
        assert self._began is not None
        self.seconds[self.phase.name] = now - self._began
        self._began = now


@dataclass(frozen=True, slots=True)
class StartTimes:
    """Seconds by phase of earlier starts, by configuration, kept in a file of the cache folder."""

    file: Path

    @classmethod
    def of(cls, order: LaunchOrder) -> StartTimes:
        return cls(Path(order.cache_root) / TIMES_FILE)

    def last(self, key: str) -> Mapping[str, float]:
        """Of the last start of this configuration that came to serve; empty when there was none."""
        found = self._read().get(key)
        if not isinstance(found, dict):
            return {}
        return {str(name): float(s) for name, s in found.items() if isinstance(s, (int, float)) and 0 <= s < 1e6}

    def remember(self, key: str, seconds: Mapping[str, float]) -> None:
        """Never fails: without a place to write, the next start knows nothing."""
        known = self._read()
        known.pop(key, None)
        known[key] = {name: round(value, 1) for name, value in seconds.items()}
        for oldest in list(known)[:-MOST_KNOWN]:
            del known[oldest]
        with suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            fresh = self.file.with_suffix(f".{os.getpid()}")
            fresh.write_text(json.dumps(known, indent=1), encoding="utf-8")
            fresh.replace(self.file)

    def _read(self) -> dict[str, object]:
        try:
            return dict(parse_object(read_capped(self.file, MAX_TIMES_BYTES)))
        except (OSError, ValueError):
            return {}


def announced(phase: Phase, last: Mapping[str, float], so_far: Mapping[str, float], *, compiles: bool) -> str:
    """What to say when `phase` begins: what it is, and how long it takes if something measured here tells.

    `last`: an earlier start of this configuration; `so_far`: the phases of this one that are over.
    """
    first = not last
    words = COMPILING if phase.name == "model" and compiles and first else phase.words
    if phase.name in last:
        return f"{words} ({last[phase.name]:.0f} s at the last start)"
    if words == COMPILING and "libraries" in so_far:
        seconds = COMPILE_SHARE * so_far["libraries"]
        return f"{words}: about {seconds:.0f} s for a small model, judged by the first {so_far['libraries']:.0f} s"
    return words


def lasting(seconds: Mapping[str, float], *, compiled: bool) -> dict[str, float]:
    """What of a start's times tells of the next one: what was compiled is only loaded from then on."""
    return {name: value for name, value in seconds.items() if not (compiled and name == "model")}


def configuration(order: LaunchOrder, processor: Processor) -> str:
    """What decides how long a start takes, as a short key: vLLM compiles once for each."""
    parts = (
        order.model, order.base_digest, order.dtype, order.compile, order.max_loras, order.max_rank,
        order.max_model_len, order.engine_args, processor.description, len(os.sched_getaffinity(0)),
    )  # fmt: skip
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
