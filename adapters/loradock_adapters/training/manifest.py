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
from loradock_adapters.training.data import DataFile, TokenSet
from loradock_adapters.training.losses import Losses
from loradock_adapters.training.recipe import RecipeFile

MANIFEST_FILE = "manifest.json"
SCHEMA = 1
_PACKAGES = (
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
class Manifest:
    """Everything needed to say where an adapter comes from, and to make it again."""

    source: RecipeFile
    base: BaseModel
    data: dict[str, DataFacts]
    adapter: AdapterFacts
    losses: Losses
    training_seconds: float
    device: str

    def document(self) -> dict[str, Any]:
        """As it stands in the file."""
        recipe = self.source.recipe
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
                "train": [[point.step, round(point.loss, 5)] for point in self.losses.train],
                "held_out": [[point.step, round(point.loss, 5)] for point in self.losses.held_out],
            },
            "training_seconds": round(self.training_seconds, 1),
            "hardware": {"device": self.device, "machine": platform.machine(), "cpu_cores": os.cpu_count()},
            "versions": {"python": platform.python_version(), **_versions()},
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


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
