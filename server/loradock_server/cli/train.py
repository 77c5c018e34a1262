"""`loradock train`: a recipe becomes an adapter folder. What training is, the adapters side knows."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from loradock_adapters.check import Limits
from loradock_adapters.signing import read_key, write_signature
from loradock_adapters.training.errors import DataError, RecipeError, TrainingStopped
from loradock_adapters.training.losses import LossPoint
from loradock_adapters.training.pace import span
from loradock_adapters.training.progress import Lines, LiveCurves
from loradock_adapters.training.stopping import StopRequest, stopping_on_signals
from loradock_server.cli.errors import Stopped, Unreadable
from loradock_server.cli.home import base_folder, read_settings, require_base
from loradock_server.cli.options import AsJson
from loradock_server.cli.output import Output, answering, fields
from loradock_server.cli.wording import NOTHING, size
from loradock_server.limits import adapter_limits

if TYPE_CHECKING:
    from loradock_adapters.training.run import TrainResult


def train(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="The recipe, a TOML file; its data files lie beside it.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="The adapter becomes DIR/<its name>. Default: trained in the home folder.",
        ),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option("--base", metavar="DIR", help="Folder of the base model. Default: the one this home serves."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint of a run that was broken off, if any.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw away what a run that was broken off has left.")
    ] = False,
    report_to: Annotated[
        list[str] | None,
        typer.Option("--report-to", metavar="TRACKER", help="tensorboard or mlflow, besides the log; several times."),
    ] = None,
    sign: Annotated[
        Path | None, typer.Option("--sign", metavar="KEY", help="Sign the adapter with this private key.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train an adapter from a recipe, by QLoRA on a GPU or on the CPU.

    The folder appears when training is over, complete: the adapter, a manifest of what it was made from, the log and
    the loss curve. Until then DIR/NAME.partial has the log, a live curve and checkpoints. Ctrl-C stops after the
    current step, with a checkpoint.
    """
    with answering(as_json) as output:
        if resume and restart:
            raise Unreadable("--resume keeps what was done, and --restart throws it away", fix="give one of the two")
        key = None if sign is None else read_key(sign)  # before the hours, not after them
        settings = read_settings()
        order = _Order(
            recipe,
            require_base(base or base_folder(settings)),
            out or settings.home / "trained",
            adapter_limits(settings),
            resume,
            restart,
            tuple(report_to or ()),
        )
        result = _run(order, output)
        signature = None if key is None else write_signature(result.folder, key)[1]
        output.document(_document(result) | ({} if signature is None else {"public_key": signature.key_text}))
        output.say(
            Text("trained ", "bold green") + Text(result.name),
            fields(_told(result) | ({} if signature is None else {"signed by": signature.key_text})),
        )
        output.hint(
            f"loradock adapters check {result.folder}",
            f"loradock adapters register {result.name} {result.folder}",
        )


@dataclass(frozen=True, slots=True)
class _Order:
    """What was asked for."""

    recipe: Path
    base: Path
    out: Path
    limits: Limits
    resume: bool
    restart: bool
    report_to: tuple[str, ...]


def _run(order: _Order, output: Output) -> TrainResult:
    try:
        # Here, not above: these packages come with the extra `train`, and take seconds to import.
        from loradock_adapters.training.run import How
        from loradock_adapters.training.run import train as run_training
    except ModuleNotFoundError as error:
        raise Unreadable(
            f"training needs the package {error.name}, which is not installed",
            fix="install LoRADock with its training packages: loradock[train]",
        ) from error
    stop = StopRequest()

    def stopping() -> None:
        output.step("stopping after this step, with a checkpoint; press Ctrl-C again to leave at once")

    how = How(order.limits, order.resume, order.restart, order.report_to, told=output.step)
    with ExitStack() as stack:
        live = not output.as_json and output.err.is_terminal
        shown = stack.enter_context(LiveCurves(output.err)) if live else Lines(output.step)
        stack.enter_context(stopping_on_signals(stop, stopping))
        try:
            return run_training(order.recipe, order.base, order.out, shown, how, stop)
        except (RecipeError, DataError) as error:
            raise Unreadable(str(error)) from error
        except TrainingStopped as error:
            again = f"go on with: loradock train {order.recipe} --out {order.out} --resume"
            raise Stopped(str(error), fix=again if error.step else None) from error


def _told(result: TrainResult) -> dict[str, object]:
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
    }
    return {name: value for name, value in known.items() if value is not None}


def _course(points: Sequence[LossPoint]) -> str:
    return f"{points[0].loss:.3f} → {points[-1].loss:.3f}" if points else NOTHING


def _document(result: TrainResult) -> dict[str, Any]:
    return {
        "name": result.name,
        "folder": str(result.folder),
        "seconds": round(result.seconds, 1),
        "tokens_per_second": round(result.tokens_per_second, 1),
        "peak_bytes": result.peak_bytes,
        "best_step": result.best_step,
        "stopped_at": result.stopped_at,
        "losses": asdict(result.losses),
    }
