"""`loradock train`: a recipe becomes an adapter folder. What training is, the adapters side knows."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from loradock_adapters.signing import read_key, write_signature
from loradock_adapters.training.errors import DataError, RecipeError
from loradock_adapters.training.losses import LossPoint
from loradock_adapters.training.progress import ProgressBar
from loradock_server.cli.errors import Unreadable
from loradock_server.cli.home import base_folder, read_settings, require_base
from loradock_server.cli.options import AsJson
from loradock_server.cli.output import Output, answering, fields
from loradock_server.cli.wording import NOTHING

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
    sign: Annotated[
        Path | None, typer.Option("--sign", metavar="KEY", help="Sign the adapter with this private key.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train an adapter from a recipe, by QLoRA on a GPU or on the CPU.

    The folder appears when training is over, complete: the adapter, a manifest of what it was made from, and
    the loss curve.
    """
    with answering(as_json) as output:
        key = None if sign is None else read_key(sign)  # before the hours, not after them
        settings = read_settings()
        model = require_base(base or base_folder(settings))
        result = _run(recipe, model, out or settings.home / "trained", output)
        signature = None if key is None else write_signature(result.folder, key)[1]
        output.document(_document(result) | ({} if signature is None else {"public_key": signature.key_text}))
        output.say(
            Text("trained ", "bold green") + Text(result.name),
            fields(
                {
                    "folder": result.folder,
                    "train loss": _course(result.losses.train),
                    "held-out loss": _course(result.losses.held_out),
                    "steps took": f"{result.seconds:.0f} s",
                }
                | ({} if signature is None else {"signed by": signature.key_text})
            ),
        )
        output.hint(
            f"loradock adapters check {result.folder}",
            f"loradock adapters register {result.name} {result.folder}",
        )


def _run(recipe: Path, base: Path, out: Path, output: Output) -> TrainResult:
    try:
        # Here, not above: these packages come with the extra `train`, and take seconds to import.
        from loradock_adapters.training.run import train as run_training
    except ModuleNotFoundError as error:
        raise Unreadable(
            f"training needs the package {error.name}, which is not installed",
            fix="install LoRADock with its training packages: loradock[train]",
        ) from error
    with ExitStack() as stack:
        shown = not output.as_json and output.err.is_terminal
        bar = stack.enter_context(ProgressBar(output.err)) if shown else None
        try:
            return run_training(recipe, base, out, bar)
        except (RecipeError, DataError) as error:
            raise Unreadable(str(error)) from error


def _course(points: Sequence[LossPoint]) -> str:
    return f"{points[0].loss:.3f} → {points[-1].loss:.3f}" if points else NOTHING


def _document(result: TrainResult) -> dict[str, Any]:
    return {
        "name": result.name,
        "folder": str(result.folder),
        "seconds": round(result.seconds, 1),
        "losses": asdict(result.losses),
    }
