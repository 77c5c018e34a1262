"""Everything about a run that is known before it begins: recipe, data as tokens, base, and whether it can be served.

Raises for what cannot be trained or served; loads no weights.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from loradock_adapters.base_model import BaseModel
from loradock_adapters.base_modules import read_modules
from loradock_adapters.check import Limits, Report, check_planned
from loradock_adapters.errors import BaseModelError
from loradock_adapters.module_table import BaseModules
from loradock_adapters.planning.reading import built_shape
from loradock_adapters.planning.shape import ModelShape
from loradock_adapters.training.data import DataFile, TokenSet, read_examples, tokenize
from loradock_adapters.training.errors import DataError, RecipeError
from loradock_adapters.training.manifest import DataFacts
from loradock_adapters.training.recipe import Recipe, RecipeFile, read_recipe
from loradock_adapters.training.schedule import Schedule
from loradock_adapters.training.targets import target_names


@dataclass(frozen=True, slots=True)
class Input:
    """A data file, by the name that the recipe has for it, and its tokens."""

    name: Path
    file: DataFile
    tokens: TokenSet

    @property
    def facts(self) -> DataFacts:
        return DataFacts.of(self.file, self.name, self.tokens)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that may begin. `report`: of the adapter that it will make, as far as that can be said. `shape`: the
    base's, None where it cannot be planned.
    """

    source: RecipeFile
    base: BaseModel
    tokenizer: PreTrainedTokenizerBase
    train: Input
    held_out: Input | None
    limits: Limits
    report: Report
    shape: ModelShape | None

    @property
    def recipe(self) -> Recipe:
        return self.source.recipe

    @property
    def schedule(self) -> Schedule:
        return self.recipe.training.schedule(len(self.train.tokens.examples))

    @property
    def longest(self) -> int:
        """Tokens of the longest example that is trained on."""
        return max(len(tokens.input_ids) for tokens in self.train.tokens.examples)

    @property
    def measured(self) -> TokenSet | None:
        """The held-out examples that the loss is measured on."""
        if self.held_out is None:
            return None
        tokens = self.held_out.tokens
        return replace(tokens, examples=tokens.examples[: self.recipe.training.eval_examples])


def prepare(
    recipe_path: Path, base_folder: Path, limits: Limits | None = None, report_to: tuple[str, ...] = ()
) -> Prepared:
    """Read and judge everything. `report_to` adds to the recipe's.

    Raises RecipeError, DataError, BaseModelError, and AdapterRejected for an adapter that the server would refuse.
    """
    source = _with_trackers(read_recipe(recipe_path), report_to)
    base, modules = BaseModel.read(base_folder), read_modules(base_folder)
    adapter = source.recipe.adapter
    names = target_names(adapter.target_modules, modules, base.name)
    recipe = replace(source.recipe, adapter=replace(adapter, target_modules=names))
    source = replace(source, recipe=recipe)
    # Signed it will be when it is there.
    limits = replace(limits or Limits(), require_signature=False)
    report = check_planned(_config(recipe), base, limits)
    report.raise_if_faulty()
    files = {name: (path, read_examples(source.beside(path))) for name, path in _paths(recipe).items()}
    tokenizer = AutoTokenizer.from_pretrained(base_folder, local_files_only=True)
    if not tokenizer.chat_template:
        raise DataError(f"{base.name} has no chat template, so nobody could ask the adapter; train an instruct model")
    inputs = {
        role: Input(path, file, tokenize(tokenizer, file.examples, max_length=recipe.data.max_length))
        for role, (path, file) in files.items()
    }
    return Prepared(
        source, base, tokenizer, inputs["train"], inputs.get("held_out"), limits, report, _shape(modules, base.name)
    )


def _with_trackers(source: RecipeFile, report_to: tuple[str, ...]) -> RecipeFile:
    recipe = source.recipe
    wanted = tuple(dict.fromkeys((*recipe.training.report_to, *report_to)))
    recipe = replace(recipe, training=replace(recipe.training, report_to=wanted))
    faults = recipe.training.faults()
    for name in wanted if not faults else ():
        # TensorBoard's writer is torch's, or tensorboardX's.
        packages = ("tensorboard", "tensorboardX") if name == "tensorboard" else (name,)
        if all(importlib.util.find_spec(package) is None for package in packages):
            faults.append(f"training.report_to has {name!r}, and the package {name} is not installed; install it")
    if faults:
        raise RecipeError("; ".join(faults))
    return replace(source, recipe=recipe)


def _config(recipe: Recipe) -> dict[str, object]:
    """The part of PEFT's configuration that a recipe decides."""
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": recipe.base,
        "r": recipe.adapter.rank,
        "lora_alpha": recipe.adapter.alpha,
        "target_modules": list(recipe.adapter.target_modules),
        "bias": "none",
    }


def _shape(modules: BaseModules, name: str) -> ModelShape | None:
    try:
        return built_shape(modules, name=name)
    except BaseModelError:
        return None


def _paths(recipe: Recipe) -> dict[str, Path]:
    data = recipe.data
    return {"train": data.train} | ({} if data.held_out is None else {"held_out": data.held_out})
