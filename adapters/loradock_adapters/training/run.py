"""From a recipe file to an adapter folder: read, train, write, or raise and leave nothing behind.

The finished folder appears in one rename: adapter_config.json, adapter_model.safetensors, manifest.json and
loss.png.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import torch
import transformers.utils.logging as transformers_logging
from transformers import AutoTokenizer

from loradock_adapters.base_model import BaseModel
from loradock_adapters.training.data import DataFile, TokenSet, read_examples, tokenize
from loradock_adapters.training.errors import TrainingError
from loradock_adapters.training.export import write_adapter
from loradock_adapters.training.losses import Losses
from loradock_adapters.training.manifest import DataFacts, Manifest, cpu_name
from loradock_adapters.training.plot import plot_losses
from loradock_adapters.training.progress import Silent, TrainingProgress
from loradock_adapters.training.recipe import RecipeFile, read_recipe
from loradock_adapters.training.trainer import Fitted, fit


@dataclass(frozen=True, slots=True)
class TrainResult:
    """Where the adapter lies and how the run went; `seconds` is the time spent in optimiser steps."""

    name: str
    folder: Path
    losses: Losses
    seconds: float


@dataclass(frozen=True, slots=True)
class _Input:
    """A data file and its tokens."""

    name: Path
    file: DataFile
    tokens: TokenSet

    @property
    def facts(self) -> DataFacts:
        return DataFacts.of(self.file, self.name, self.tokens)


def train(recipe_path: Path, base_folder: Path, out_dir: Path, progress: TrainingProgress | None = None) -> TrainResult:
    """Train the adapter of a recipe into out_dir/<name>.

    Raises RecipeError, DataError or BaseModelError before anything heavy starts, TrainingError if out_dir/<name>
    is there already, TrainingFailed when the run gives no usable adapter.
    """
    progress = progress or Silent()
    # 1. Everything that can be wrong on paper.
    source = read_recipe(recipe_path)
    folder = out_dir / source.recipe.name
    if folder.exists():
        raise TrainingError(f"{folder} exists; move it away or choose another --out")
    base = BaseModel.read(base_folder)
    files = {name: (path, read_examples(source.beside(path))) for name, path in _paths(source).items()}
    # 2. Tokens.
    progress.phase("tokenizing")
    tokenizer = AutoTokenizer.from_pretrained(base_folder, local_files_only=True)
    inputs = {
        role: _Input(path, file, tokenize(tokenizer, file.examples, max_length=source.recipe.data.max_length))
        for role, (path, file) in files.items()
    }
    # 3. The run.
    held_out = inputs.get("held_out")
    with _quiet():
        fitted = fit(
            source.recipe,
            base_folder,
            tokenizer,
            inputs["train"].tokens,
            None if held_out is None else _first(held_out.tokens, source.recipe.training.eval_examples),
            progress,
        )
    # 4. The folder, complete or not at all.
    progress.phase("writing the adapter")
    finish(source, base, {role: given.facts for role, given in inputs.items()}, fitted, folder)
    return TrainResult(source.recipe.name, folder, fitted.losses, fitted.seconds)


def finish(source: RecipeFile, base: BaseModel, data: dict[str, DataFacts], fitted: Fitted, folder: Path) -> None:
    """Write what a run gave into `folder`, which appears when it is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        made = Path(scratch) / folder.name
        adapter = write_adapter(fitted.model, made, base_name=source.recipe.base)
        Manifest(source, base, data, adapter, fitted.losses, fitted.seconds, device=device_name()).write(made)
        plot_losses(fitted.losses, made / "loss.png", title=source.recipe.name)
        made.replace(folder)


def device_name() -> str:
    """What computes here: the GPU's name, or the processor's."""
    return str(torch.cuda.get_device_name(0)) if torch.cuda.is_available() else cpu_name()


def _paths(source: RecipeFile) -> dict[str, Path]:
    data = source.recipe.data
    return {"train": data.train} | ({} if data.held_out is None else {"held_out": data.held_out})


def _first(tokens: TokenSet, count: int) -> TokenSet:
    return replace(tokens, examples=tokens.examples[:count])


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' own progress bars, which would tear ours apart."""
    transformers_on = transformers_logging.is_progress_bar_enabled()
    datasets_on = not datasets.are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if transformers_on:
            transformers_logging.enable_progress_bar()
        if datasets_on:
            datasets.enable_progress_bars()
