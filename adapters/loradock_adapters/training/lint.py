"""Where a recipe strays from what is usual for LoRA, and why that matters. Advice, never a refusal.

Knows figures of the data and of the base, no torch and no files. What cannot be trained at all is a recipe's fault
and told elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from loradock_adapters.training.data_check import BORDERLINE, ENOUGH
from loradock_adapters.training.recipe import ALL_LINEAR, Aim, Recipe

_RATES = (1e-4, 3e-4)
_SMALL_BASE = 1_000_000_000
_RANKS: dict[Aim, tuple[int, int]] = {"style": (4, 8), "domain": (16, 32), "deep": (64, 128)}
_SCALES = (1.0, 4.0)  # alpha / rank; 2 is usual
_EXAMPLES_FOR_RANK = {32: 500, 64: 1000}
_MOST_EPOCHS = 5.0
_MOST_DROPOUT = 0.2
_LEFT_OUT = 0.05
_WARM_UP = 0.2
_BATCHES = (4, 128)
_FEW_HELD_OUT = 50


@dataclass(frozen=True, slots=True)
class Figures:
    """Examples trained on, left out as too long, held out (None without such a file), of those also trained on; and
    how many numbers the base has, 0 where that is not known. `modules`: last names of the base's linear layers.
    """

    examples: int
    too_long: int
    held_out: int | None
    leaked: int
    base_parameters: int
    modules: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Advice:
    """`where`: the recipe's key. `text`: what strays and why it matters. `usual`: what most do."""

    where: str
    text: str
    usual: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.where}: {self.text}; usual: {self.usual}"


def lint(recipe: Recipe, figures: Figures) -> tuple[Advice, ...]:
    """Everything that strays, in a recipe's order."""
    return tuple(Advice(*told) for rule in _RULES for told in rule(recipe, figures))


Told = Iterator[tuple[str, str, str]]


def _data(recipe: Recipe, figures: Figures) -> Told:
    examples, data = figures.examples, recipe.data
    if examples < BORDERLINE:
        text = f"{examples} examples: gains will be small, and of format only; a good prompt may do as well"
        yield "data.train", text, f"{ENOUGH} or more"
    elif examples < ENOUGH:
        yield "data.train", f"{examples} examples are borderline; compare with a good prompt", f"{ENOUGH} or more"
    every = examples + figures.too_long
    if figures.too_long > _LEFT_OUT * every:
        text = f"{figures.too_long} of {every} examples are longer than {data.max_length} tokens and left out"
        yield "data.max_length", text + ": what is learned is the short ones", "the length of nearly all of them"
    if figures.held_out is None:
        text = "there is none: nothing tells learning from learning by heart, and nothing stops in time"
        yield "data.held_out", text, "a tenth of the data, and 50 to 500 examples"
        return
    if figures.leaked:
        text = f"{figures.leaked} of its questions are trained on too: its loss measures memory"
        yield "data.held_out", text, "none in common; loradock data check lists them, and near ones"


def _adapter(recipe: Recipe, figures: Figures) -> Told:
    adapter = recipe.adapter
    if recipe.aim is not None:
        low, high = _RANKS[recipe.aim]
        if not low <= adapter.rank <= high:
            more = "it has room to learn the examples by heart" if adapter.rank > high else "it may hold too little"
            yield "adapter.rank", f"{adapter.rank} for the aim {recipe.aim!r}: {more}", f"{low} to {high}"
    wanted = max((count for rank, count in _EXAMPLES_FOR_RANK.items() if adapter.rank >= rank), default=0)
    if figures.examples < wanted:
        text = f"{adapter.rank} with {figures.examples} examples: it has room to learn them by heart"
        yield "adapter.rank", text, f"from {wanted} examples on"
    scale = adapter.alpha / adapter.rank
    if not _SCALES[0] <= scale <= _SCALES[1]:
        yield (
            "adapter.alpha",
            f"{adapter.alpha:g} is {scale:g} times the rank, and by that what is learned is multiplied: "
            "it acts like another learning rate, and other recipes' rates do not carry over",
            f"{2 * adapter.rank} (twice the rank)",
        )
    chosen = {name.rpartition(".")[2] for name in adapter.target_modules}
    missing = [name for name in ("q_proj", "v_proj") if name in figures.modules - chosen]
    if missing and chosen != {ALL_LINEAR}:
        text = f"without {' and '.join(missing)} attention hardly changes, and most of what LoRA does is lost"
        yield "adapter.target_modules", text, "all-linear, or q_proj and v_proj at least"
    if adapter.dropout > _MOST_DROPOUT:
        text = f"{adapter.dropout:g} leaves out so much that little is learned"
        yield "adapter.dropout", text, "0.05; up to 0.1 for few examples"


def _rate(recipe: Recipe, figures: Figures) -> Told:
    rate = recipe.training.learning_rate
    low, high = _RATES
    if low <= rate <= high:
        return
    text = f"{rate:g} is below the usual: much longer training for the same"
    if rate > high:
        text = f"{rate:g} is above the usual: steps so long can undo what the base knows, and the loss may leap"
        if 0 < figures.base_parameters < _SMALL_BASE:
            text += (
                f". That is said of bases with billions of numbers; this one has {figures.base_parameters / 1e6:.0f} "
                "million, and small ones take more (this project's examples: 1e-3 to 2e-3 on 135 million). Go by the "
                "held-out loss"
            )
    yield "training.learning_rate", text, "1e-4 to 3e-4"


def _length(recipe: Recipe, figures: Figures) -> Told:
    training = recipe.training
    schedule = training.schedule(figures.examples)
    if schedule.epochs > _MOST_EPOCHS:
        text = f"every example is seen {schedule.epochs:.1f} times: answers are learned by heart"
        yield "training.steps" if training.steps else "training.epochs", text, "1 to 3 epochs, 5 at most"
    if schedule.epochs < 1:
        text = f"the run ends after {schedule.epochs:.0%} of the examples; the rest is never seen"
        yield "training.steps" if training.steps else "training.epochs", text, "1 to 3 epochs"
    if schedule.warmup_steps >= schedule.steps:
        text = f"{schedule.warmup_steps} of {schedule.steps} steps: the learning rate is never reached"
        yield "training.warmup_steps", text, "3 to 10 % of the steps"
    elif schedule.warmup_steps > max(1, _WARM_UP * schedule.steps):
        text = f"{schedule.warmup_steps} of {schedule.steps} steps: much of the run is spent below the learning rate"
        yield "training.warmup_steps", text, "3 to 10 % of the steps"
    batch = training.batch_size * training.gradient_accumulation
    if not _BATCHES[0] <= batch <= _BATCHES[1]:
        why = "each step follows a few examples' whims" if batch < _BATCHES[0] else "few steps, each hardly better"
        yield "training.batch_size", f"{batch} examples in a step: {why}", "8 to 64, gradient accumulation included"


def _stopping(recipe: Recipe, figures: Figures) -> Told:
    training = recipe.training
    if figures.held_out is None:
        return
    steps = training.schedule(figures.examples).steps
    if training.eval_every >= steps:
        text = f"{training.eval_every} in a run of {steps} steps: the held-out loss is measured at its ends only"
        yield "training.eval_every", text, "5 to 20 times in a run"
    if training.early_stopping is None:
        return
    measured = min(figures.held_out, training.eval_examples)
    if measured < _FEW_HELD_OUT:
        text = f"the loss that decides is measured on {measured} examples and moves by chance"
        yield "training.eval_examples", text, f"{_FEW_HELD_OUT} or more"
    if training.early_stopping.patience * training.eval_every >= steps:
        patience = training.early_stopping.patience
        text = f"{patience} evaluations {training.eval_every} steps apart: a run of {steps} steps ends before"
        yield "training.early_stopping", text, "patience for a third of the run at most"


_RULES = (_data, _adapter, _rate, _length, _stopping)
