"""A recipe looked at before it is trained: prepared, linted, and its cost worked out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from loradock_adapters.check import Limits
from loradock_adapters.planning.training_dtype import DtypeChoice
from loradock_adapters.training.computing import dtype_of
from loradock_adapters.training.cost import Cost, cost_of
from loradock_adapters.training.duplicates import asked_text
from loradock_adapters.training.lint import Advice, Figures, lint
from loradock_adapters.training.preparation import Prepared, prepare


@dataclass(frozen=True, slots=True)
class Examined:
    """`compute`: the numbers that the run computes in here. `cost` is None for a base whose shapes are not known."""

    prepared: Prepared
    advice: tuple[Advice, ...]
    compute: DtypeChoice
    cost: Cost | None


def examine_recipe(recipe: Path, base: Path, limits: Limits, report_to: tuple[str, ...] = ()) -> Examined:
    """Prepare and examine. Raises what `prepare` raises."""
    return examine(prepare(recipe, base, limits, report_to))


def examine(prepared: Prepared) -> Examined:
    """Everything that can be said of a run before it begins."""
    shape, compute = prepared.shape, dtype_of(prepared)
    held_out = prepared.held_out
    figures = Figures(
        examples=len(prepared.train.tokens.examples),
        too_long=prepared.train.tokens.too_long,
        held_out=None if held_out is None else len(held_out.tokens.examples),
        leaked=_leaked(prepared),
        base_parameters=0 if shape is None else shape.parameters,
        modules=frozenset(name.rpartition(".")[2] for name in prepared.base.modules),
    )
    advice = lint(prepared.recipe, figures)
    cost = cost_of(prepared, compute)
    if cost is not None and cost.needs_bytes > cost.memory_bytes:
        text = (
            f"about {cost.needs_bytes / 1e9:.1f} GB are needed, and {cost.device} has {cost.memory_bytes / 1e9:.1f} GB"
        )
        usual = "a smaller batch_size with gradient_accumulation, or gradient_checkpointing; loradock plan compares"
        advice += (Advice("training.batch_size", text, usual),)
    return Examined(prepared, advice, compute, cost)


def _leaked(prepared: Prepared) -> int:
    if prepared.held_out is None:
        return 0
    trained = {asked_text(example) for example in prepared.train.file.examples}
    return sum(asked_text(example) in trained for example in prepared.held_out.file.examples)
