"""A training recipe: one TOML file, read into frozen records, unknown keys refused.

Knows the shape of a recipe and which values make an adapter that can be served. Knows no torch and reads
no data.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import math
import tomllib
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from loradock_adapters.errors import InvalidName
from loradock_adapters.names import validate_name
from loradock_adapters.training.errors import RecipeError

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL_LINEAR = (*ATTENTION, "gate_proj", "up_proj", "down_proj")
_LARGEST_RECIPE_BYTES = 1 << 20

T = TypeVar("T")


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
    """The LoRA: scale is alpha / rank. Only linear layers: an adapter with embeddings could not be served."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ALL_LINEAR

    def faults(self) -> list[str]:
        faults = _outside("adapter.rank", self.rank, 1, 512)
        faults += _outside("adapter.alpha", self.alpha, 1e-6, 1e6)
        faults += _outside("adapter.dropout", self.dropout, 0.0, 0.9)
        if not self.target_modules:
            faults.append("adapter.target_modules is empty; name at least one linear layer, e.g. q_proj")
        faults += [
            f"adapter.target_modules has {name!r}, which cannot be served as an adapter; leave it out"
            for name in self.target_modules
            if name in {"lm_head", "embed_tokens"}
        ]
        return faults


@dataclass(frozen=True, slots=True)
class QuantizationRecipe:
    """How the frozen base is held while training: NF4 or plain bf16 (`type = "none"`)."""

    type: typing.Literal["nf4", "none"] = "nf4"
    double: bool = True

    def faults(self) -> list[str]:
        return []


@dataclass(frozen=True, slots=True)
class TrainingRecipe:
    """The run: optimiser steps, examples per step, AdamW with warm-up and a cosine to zero."""

    steps: int = 200
    batch_size: int = 8
    gradient_accumulation: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    warmup_steps: int = 10
    max_grad_norm: float = 1.0
    eval_every: int = 50
    eval_examples: int = 32
    seed: int = 1
    gradient_checkpointing: bool = False

    def faults(self) -> list[str]:
        faults = _outside("training.steps", self.steps, 1, 10_000_000)
        faults += _outside("training.batch_size", self.batch_size, 1, 65536)
        faults += _outside("training.gradient_accumulation", self.gradient_accumulation, 1, 65536)
        faults += _outside("training.learning_rate", self.learning_rate, 1e-9, 1.0)
        faults += _outside("training.weight_decay", self.weight_decay, 0.0, 10.0)
        faults += _outside("training.warmup_steps", self.warmup_steps, 0, 10_000_000)
        faults += _outside("training.max_grad_norm", self.max_grad_norm, 1e-6, 1e6)
        faults += _outside("training.eval_every", self.eval_every, 1, 10_000_000)
        faults += _outside("training.eval_examples", self.eval_examples, 1, 1_000_000)
        faults += _outside("training.seed", self.seed, 0, 2**31 - 1)
        return faults


@dataclass(frozen=True, slots=True)
class Recipe:
    """One recipe. `base` is the public name of the base model, written into the adapter's config."""

    name: str
    base: str
    data: DataRecipe
    description: str = ""
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
    recipe = _build(Recipe, table, "", faults)
    if recipe is not None:
        faults += recipe.faults()
    if faults or recipe is None:
        raise RecipeError(f"{where}: " + "; ".join(faults))
    return recipe


def _build(kind: type[T], table: dict[str, Any], prefix: str, faults: list[str]) -> T | None:
    """Make `kind` of a TOML table, adding to `faults`; None when a value is missing or wrong."""
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]  # T is a dataclass
    for key in table.keys() - fields.keys():
        near = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(fields)}"
        faults.append(f"unknown key {prefix}{key}{hint}")
    before = len(faults)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in table:
            values[name] = _value(hints[name], table[name], prefix + name, faults)
        elif field.default is dataclasses.MISSING:
            faults.append(f"{prefix}{name} is missing")
    return None if len(faults) > before else kind(**values)


def _value(hint: Any, value: Any, where: str, faults: list[str]) -> Any:
    """`value` as `hint` wants it; a fault otherwise."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, dict):
            return _build(hint, value, where + ".", faults)
        faults.append(f"{where} is {value!r}; it is a table, write [{where}]")
        return None
    if typing.get_origin(hint) is types.UnionType:
        hint = next(option for option in typing.get_args(hint) if option is not type(None))
    if typing.get_origin(hint) is typing.Literal:
        if value in typing.get_args(hint):
            return value
        faults.append(f"{where} is {value!r}; it is one of {', '.join(map(repr, typing.get_args(hint)))}")
        return None
    if hint == tuple[str, ...]:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        faults.append(f"{where} is {value!r}; it is a list of strings")
        return None
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and type(value) is int:
        return float(value)
    # bool is an int to Python, not to a recipe.
    if type(value) is hint:
        return value
    faults.append(f"{where} is {value!r}; it is {'a path' if hint is Path else hint.__name__}")
    return None


def _outside(where: str, value: float, low: float, high: float) -> list[str]:
    if math.isfinite(value) and low <= value <= high:
        return []
    return [f"{where} is {value}; it lies between {low} and {high}"]
