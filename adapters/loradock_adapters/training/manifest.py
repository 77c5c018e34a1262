"""The manifest beside an adapter: what it was made from, with what, and how the losses went.

Written once, read by people and by servers; it holds digests, public names and numbers, and no path of the machine
that trained. Knows no torch.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loradock_adapters.base_model import BaseModel
from loradock_adapters.planning.training_dtype import DtypeChoice
from loradock_adapters.training.data import DataFile, TokenSet
from loradock_adapters.training.losses import Course, LossPoint
from loradock_adapters.training.recipe import EarlyStopping, RecipeFile
from loradock_adapters.training.schedule import Schedule

MANIFEST_FILE = "manifest.json"
SCHEMA = 1
PACKAGES = (
    "accelerate",
    "bitsandbytes",
    "datasets",
    "loradock",
    "peft",
    "safetensors",
    "torch",
    "transformers",
    "trl",
)


@dataclass(frozen=True, slots=True)
class DataFacts:
    """One data file: name as the recipe has it, sha256 of its bytes, examples used and left out as too long."""

    file: str
    sha256: str
    examples: int
    used: int
    too_long: int
    trained_token_share: float

    @classmethod
    def of(cls, file: DataFile, name: Path, tokens: TokenSet) -> DataFacts:
        return cls(
            file=name.name if name.is_absolute() else name.as_posix(),
            sha256=file.digest,
            examples=len(file.examples),
            used=len(tokens.examples),
            too_long=tokens.too_long,
            trained_token_share=round(tokens.trained_share, 4),
        )


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What was written. `digest` covers the two PEFT files."""

    digest: str
    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    parameters: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class EarlyStop:
    """The rule, the evaluation whose adapter was kept, and the step at which the run ended by it, if it did."""

    rule: EarlyStopping
    best: LossPoint | None
    stopped_at: int | None

    def as_dict(self) -> dict[str, Any]:
        best = self.best
        return {
            **asdict(self.rule),
            "best_step": None if best is None else best.step,
            "best_loss": None if best is None else round(best.loss, 5),
            "stopped_at": self.stopped_at,
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the run went, on what, computing in what. `peak_bytes`: by what holds them (see `footprint`)."""

    course: Course
    schedule: Schedule
    peak_bytes: dict[str, int]
    device: str
    threads: int
    compute: DtypeChoice
    early_stopping: EarlyStop | None

    def as_dict(self) -> dict[str, Any]:
        steps = self.course.steps
        return {
            "steps": steps[-1].step if steps else 0,
            "planned_steps": self.schedule.steps,
            "warmup_steps": self.schedule.warmup_steps,
            "planned_epochs": round(self.schedule.epochs, 3),
            "tokens": self.course.tokens,
            "tokens_per_second": round(self.course.tokens_per_second, 1),
            "peak_bytes": self.peak_bytes,
            "compute": asdict(self.compute),
            "early_stopping": None if self.early_stopping is None else self.early_stopping.as_dict(),
        }


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything needed to say where an adapter comes from, and to make it again."""

    source: RecipeFile
    base: BaseModel
    data: dict[str, DataFacts]
    adapter: AdapterFacts
    outcome: Outcome

    def document(self) -> dict[str, Any]:
        """As it stands in the file."""
        recipe, outcome = self.source.recipe, self.outcome
        losses = outcome.course.losses
        return {
            "schema": SCHEMA,
            "name": recipe.name,
            "description": recipe.description,
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "base": {"hub_id": recipe.base, "name": self.base.name, "digest": self.base.digest},
            "adapter": asdict(self.adapter),
            "data": {role: asdict(facts) for role, facts in self.data.items()},
            "recipe": {"sha256": self.source.digest, "text": self.source.text},
            "losses": {
                "train": [[point.step, round(point.loss, 5)] for point in losses.train],
                "held_out": [[point.step, round(point.loss, 5)] for point in losses.held_out],
            },
            "training_seconds": round(outcome.course.seconds, 1),
            "run": outcome.as_dict(),
            "hardware": {
                "device": outcome.device,
                "machine": platform.machine(),
                "cpu_cores": os.cpu_count(),
                "threads": outcome.threads,
            },
            "versions": {"python": platform.python_version(), **package_versions()},
        }

    def write(self, folder: Path) -> Path:
        """Write manifest.json into the folder."""
        path = folder / MANIFEST_FILE
        path.write_text(json.dumps(self.document(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return path


def cpu_name() -> str:
    """The processor in the words of the system, e.g. "AMD EPYC"."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def package_versions() -> dict[str, str]:
    """Of everything whose version can change the result."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
