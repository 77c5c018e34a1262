"""A training recipe: one TOML file, read into frozen records, unknown keys refused.

Knows the shape of a recipe and which values make an adapter that can be served. Knows no torch and reads
no data.
"""

from __future__ import annotations

import hashlib
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from loradock_adapters.errors import InvalidName
from loradock_adapters.names import validate_name
from loradock_adapters.training.errors import RecipeError
from loradock_adapters.training.schedule import Schedule
from loradock_adapters.training.toml_records import build

ALL_LINEAR = "all-linear"
"""Every linear layer of the base but its output head; which these are, the base says (`targets`)."""

_LARGEST_RECIPE_BYTES = 1 << 20
_EPOCHS = 3.0

Aim = Literal["style", "domain", "deep"]
"""What an adapter is to change: style and format, knowledge of a field, or behaviour through and through."""

RANKS: dict[Aim, int] = {"style": 8, "domain": 16, "deep": 64}
REPORTERS = ("mlflow", "tensorboard")


@dataclass(frozen=True, slots=True)
class DataRecipe:
    """Which examples; paths are relative to the recipe. Longer examples (tokens) are left out, never cut."""

    train: Path
    held_out: Path | None = None
    max_length: int = 256

    def faults(self) -> list[str]:
        return _outside("data.max_length", self.max_length, 8, 65536)


@dataclass(frozen=True, slots=True)
class AdapterRecipe:
    """The LoRA: scale is alpha / rank. Only linear layers: an adapter with embeddings could not be served.

    A recipe that names no rank gets its aim's, one that names no alpha twice its rank.
    """

    rank: int = RANKS["style"]
    alpha: float = 2.0 * RANKS["style"]
    dropout: float = 0.05
    target_modules: tuple[str, ...] = (ALL_LINEAR,)

    def faults(self) -> list[str]:
        faults = _outside("adapter.rank", self.rank, 1, 512)
        faults += _outside("adapter.alpha", self.alpha, 1e-6, 1e6)
        faults += _outside("adapter.dropout", self.dropout, 0.0, 0.9)
        if not self.target_modules:
            faults.append("adapter.target_modules is empty; name at least one linear layer, e.g. q_proj")
        if ALL_LINEAR in self.target_modules and len(self.target_modules) > 1:
            faults.append(f"adapter.target_modules has {ALL_LINEAR} among names; give it alone, or names")
        faults += [
            f"adapter.target_modules has {name!r}, which cannot be served as an adapter; leave it out"
            for name in self.target_modules
            if name in {"lm_head", "embed_tokens"}
        ]
        return faults


@dataclass(frozen=True, slots=True)
class QuantizationRecipe:
    """How the frozen base is held while training: NF4 or plain bf16 (`type = "none"`)."""

    type: Literal["nf4", "none"] = "nf4"
    double: bool = True

    def faults(self) -> list[str]:
        return []


@dataclass(frozen=True, slots=True)
class EarlyStopping:
    """Stop once the held-out loss failed `patience` times in a row to fall by more than `min_delta` below its best.

    The adapter of the best evaluation is kept.
    """

    patience: int = 3
    min_delta: float = 0.0

    def faults(self) -> list[str]:
        faults = _outside("training.early_stopping.patience", self.patience, 1, 10_000)
        return faults + _outside("training.early_stopping.min_delta", self.min_delta, 0.0, 100.0)


@dataclass(frozen=True, slots=True)
class TrainingRecipe:
    """The run: `steps` of the optimiser or `epochs` over the data, AdamW with warm-up and a cosine to zero.

    Three epochs where neither is named; `warmup_steps` is a twentieth of the steps where it is not. `report_to` names
    trackers that TRL reports to beside the log. `compute_dtype`: "auto" is the fastest on what trains, if it fits
    (`planning.training_dtype`).
    """

    steps: int | None = None
    epochs: float | None = None
    batch_size: int = 8
    gradient_accumulation: int = 1
    learning_rate: float = 2e-4
    weight_decay: float = 0.0
    warmup_steps: int | None = None
    max_grad_norm: float = 1.0
    eval_every: int = 50
    eval_examples: int = 32
    checkpoint_every: int = 50
    early_stopping: EarlyStopping | None = None
    seed: int = 1
    gradient_checkpointing: bool = False
    report_to: tuple[str, ...] = ()
    compute_dtype: Literal["auto", "bfloat16", "float32"] = "auto"

    def schedule(self, examples: int) -> Schedule:
        """How long the run is with so many examples."""
        return Schedule.of(
            examples=examples,
            batch_size=self.batch_size,
            accumulation=self.gradient_accumulation,
            steps=self.steps,
            epochs=_EPOCHS if self.epochs is None else self.epochs,
            warmup=self.warmup_steps,
        )

    def faults(self) -> list[str]:
        faults: list[str] = []
        if self.steps is not None and self.epochs is not None:
            faults.append(f"training has steps = {self.steps} and epochs = {self.epochs:g}; give one of the two")
        if self.steps is not None:
            faults += _outside("training.steps", self.steps, 1, 10_000_000)
        if self.epochs is not None:
            faults += _outside("training.epochs", self.epochs, 0.001, 10_000)
        if self.warmup_steps is not None:
            faults += _outside("training.warmup_steps", self.warmup_steps, 0, 10_000_000)
        if self.early_stopping is not None:
            faults += self.early_stopping.faults()
        faults += [
            f"training.report_to has {name!r}; known: {', '.join(REPORTERS)}"
            for name in self.report_to
            if name not in REPORTERS
        ]
        faults += _outside("training.batch_size", self.batch_size, 1, 65536)
        faults += _outside("training.gradient_accumulation", self.gradient_accumulation, 1, 65536)
        faults += _outside("training.learning_rate", self.learning_rate, 1e-9, 1.0)
        faults += _outside("training.weight_decay", self.weight_decay, 0.0, 10.0)
        faults += _outside("training.max_grad_norm", self.max_grad_norm, 1e-6, 1e6)
        faults += _outside("training.eval_every", self.eval_every, 1, 10_000_000)
        faults += _outside("training.eval_examples", self.eval_examples, 1, 1_000_000)
        faults += _outside("training.checkpoint_every", self.checkpoint_every, 1, 10_000_000)
        faults += _outside("training.seed", self.seed, 0, 2**31 - 1)
        return faults


@dataclass(frozen=True, slots=True)
class Recipe:
    """One recipe. `base` is the public name of the base model, written into the adapter's config."""

    name: str
    base: str
    data: DataRecipe
    description: str = ""
    aim: Aim | None = None
    adapter: AdapterRecipe = AdapterRecipe()
    quantization: QuantizationRecipe = QuantizationRecipe()
    training: TrainingRecipe = TrainingRecipe()

    def faults(self) -> list[str]:
        faults = [
            fault for part in (self.data, self.adapter, self.quantization, self.training) for fault in part.faults()
        ]
        try:
            validate_name(self.name)
        except InvalidName as error:
            faults.append(f"name: {error}")
        if self.training.early_stopping is not None and self.data.held_out is None:
            faults.append("training.early_stopping needs data.held_out: without it nothing says when to stop")
        if self.base.startswith(("/", ".", "~", "\\")):
            faults.append(f"base is {self.base!r}; give the model's public name, not a path of one machine")
        return faults


@dataclass(frozen=True, slots=True)
class RecipeFile:
    """A recipe with the very text it was read from, so that a manifest can carry both."""

    path: Path
    text: str
    recipe: Recipe

    @property
    def digest(self) -> str:
        """sha256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def beside(self, path: Path) -> Path:
        """Where a path named in the recipe lies."""
        return path if path.is_absolute() else self.path.parent / path


def read_recipe(path: Path) -> RecipeFile:
    """Read and judge a recipe file. Raises RecipeError with every fault found."""
    try:
        if path.stat().st_size > _LARGEST_RECIPE_BYTES:
            raise RecipeError(f"{path} has {path.stat().st_size} bytes; a recipe has at most {_LARGEST_RECIPE_BYTES}")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise RecipeError(f"no recipe at {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read the recipe {path}: {error}") from error
    return RecipeFile(path=path, text=text, recipe=parse_recipe(text, where=str(path)))


def parse_recipe(text: str, *, where: str = "recipe") -> Recipe:
    """Build a Recipe from TOML text. Raises RecipeError with every fault found."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{where} is not TOML: {error}") from error
    faults: list[str] = []
    recipe = build(Recipe, _filled(table), "", faults)
    if recipe is not None:
        faults += recipe.faults()
    if faults or recipe is None:
        raise RecipeError(f"{where}: " + "; ".join(faults))
    return recipe


def _filled(table: dict[str, Any]) -> dict[str, Any]:
    """With what follows from other values of the recipe where it says nothing; wrong values stay as they are."""
    adapter = table.get("adapter", {})
    if not isinstance(adapter, dict):
        return table
    adapter = dict(adapter)
    aim = table.get("aim")
    if isinstance(aim, str) and aim in RANKS:
        adapter.setdefault("rank", RANKS[aim])
    rank = adapter.get("rank")
    if type(rank) is int and "alpha" not in adapter:
        adapter["alpha"] = 2.0 * rank
    if adapter.get("target_modules") == ALL_LINEAR:
        adapter["target_modules"] = [ALL_LINEAR]
    return {**table, "adapter": adapter}


def _outside(where: str, value: float, low: float, high: float) -> list[str]:
    if math.isfinite(value) and low <= value <= high:
        return []
    return [f"{where} is {value}; it lies between {low} and {high}"]
