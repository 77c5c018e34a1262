"""What `loradock train` shows: advice, cost and result, for people and as JSON. Trains nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from loradock_adapters.training.lint import Advice
from loradock_adapters.training.losses import LossPoint
from loradock_adapters.training.pace import span
from loradock_server.cli.output import Output, fields
from loradock_server.cli.wording import NOTHING, printable, size

if TYPE_CHECKING:
    from loradock_adapters.training.cost import Cost
    from loradock_adapters.training.examination import Examined
    from loradock_adapters.training.run import TrainResult


def say_advice(output: Output, advice: Sequence[Advice]) -> None:
    """On stderr, a warning each, before anything long begins."""
    for one in () if output.as_json else advice:
        told = Text(printable(f"{one.where}: {one.text} ")) + Text(f"(usual: {one.usual})", "dim")
        output.err.print(Text("warning: ", "bold yellow") + told, soft_wrap=True)


def check_document(examined: Examined) -> dict[str, Any]:
    """The answer of `--check`."""
    prepared, schedule = examined.prepared, examined.prepared.schedule
    return {
        "name": prepared.recipe.name,
        "adapter": prepared.report.as_dict(),
        "steps": schedule.steps,
        "warmup_steps": schedule.warmup_steps,
        "epochs": round(schedule.epochs, 3),
        "examples": len(prepared.train.tokens.examples),
        "longest_tokens": prepared.longest,
        "compute": asdict(examined.compute),
        "warnings": [one.as_dict() for one in examined.advice],
        "cost": None if examined.cost is None else examined.cost.as_dict(),
    }


def say_check(output: Output, examined: Examined, recipe: Path) -> None:
    """The same for people."""
    prepared, schedule, cost = examined.prepared, examined.prepared.schedule, examined.cost
    report = prepared.report
    output.say(
        Text(prepared.recipe.name, "bold") + Text(": a server with these settings would take this adapter"),
        fields(
            {
                "adapter": f"rank {report.rank} on {', '.join(report.target_modules)}: {report.parameters:,} numbers, "
                f"{size(report.size_bytes)}",
                "run": f"{schedule.steps} steps, {schedule.epochs:.2g} epochs of {len(prepared.train.tokens.examples)} "
                f"examples, the longest of {prepared.longest} tokens",
                "computes in": f"{examined.compute.dtype}: {examined.compute.reason}",
                "memory": _memory(cost),
                "time": _time(cost),
                "warnings": len(examined.advice) or "none",
            }
        ),
    )
    output.hint(f"loradock train {recipe}")


def _memory(cost: Cost | None) -> str:
    if cost is None:
        return "not known for a base model of this family"
    return f"about {size(cost.needs_bytes)} of {size(cost.memory_bytes)} on {cost.device}"


def _time(cost: Cost | None) -> str:
    if cost is None or cost.seconds is None:
        return "told after the first steps"
    return f"about {span(cost.seconds)}, within a factor of two; the first steps tell it better"


def result_document(examined: Examined, result: TrainResult) -> dict[str, Any]:
    """The answer of a run."""
    return {
        "name": result.name,
        "folder": str(result.folder),
        "seconds": round(result.seconds, 1),
        "tokens_per_second": round(result.tokens_per_second, 1),
        "peak_bytes": result.peak_bytes,
        "best_step": result.best_step,
        "stopped_at": result.stopped_at,
        "losses": asdict(result.losses),
        "warnings": [one.as_dict() for one in examined.advice],
    }


def say_result(output: Output, result: TrainResult, signer: str | None) -> None:
    """The same for people."""
    best = None if result.best_step is None else f"of step {result.best_step}, the best on held-out data"
    stopped = None if result.stopped_at is None else f"step {result.stopped_at}: the held-out loss fell no more"
    known = {
        "folder": result.folder,
        "train loss": _course(result.losses.train),
        "held-out loss": _course(result.losses.held_out),
        "adapter": best,
        "stopped at": stopped,
        "steps took": f"{span(result.seconds)}, {result.tokens_per_second:.0f} tokens/s",
        "peak of memory": ", ".join(f"{size(count)} ({what})" for what, count in result.peak_bytes.items()),
        "signed by": signer,
    }
    output.say(
        Text("trained ", "bold green") + Text(result.name),
        fields({name: value for name, value in known.items() if value is not None}),
    )


def _course(points: Sequence[LossPoint]) -> str:
    return f"{points[0].loss:.3f} → {points[-1].loss:.3f}" if points else NOTHING
