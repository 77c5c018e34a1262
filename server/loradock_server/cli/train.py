"""`loradock train`: a recipe becomes an adapter folder. What training is, the adapters side knows."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from loradock_adapters.check import Limits
from loradock_adapters.signing import SigningKey, read_key, write_signature
from loradock_adapters.training.errors import CannotResume, DataError, RecipeError, TrainingStopped
from loradock_adapters.training.progress import Lines, LiveCurves
from loradock_adapters.training.stopping import StopRequest, stopping_on_signals
from loradock_server.cli.errors import Refused, Stopped, Unreadable
from loradock_server.cli.home import base_folder, read_settings, require_base
from loradock_server.cli.options import AsJson, ServerUrl
from loradock_server.cli.output import Output, answering
from loradock_server.cli.register_trained import Registering
from loradock_server.cli.train_page import check_document, result_document, say_advice, say_check, say_result
from loradock_server.limits import adapter_limits

if TYPE_CHECKING:
    from loradock_adapters.training.examination import Examined
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
    check: Annotated[
        bool, typer.Option("--check", help="Judge the recipe and say what the run will take; train nothing.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Train nothing if the recipe strays from what is usual.")
    ] = False,
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
    register: Annotated[
        str | None,
        typer.Option("--register", metavar="NAME", help="Afterwards make it the next version of NAME on a server."),
    ] = None,
    sign: Annotated[
        Path | None, typer.Option("--sign", metavar="KEY", help="Sign the adapter with this private key.")
    ] = None,
    url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Train an adapter from a recipe, by QLoRA on a GPU or on the CPU.

    First the recipe is judged: what a server would refuse is an error, what strays from practice a warning. The folder
    appears when training is over, complete: the adapter, a manifest of what it was made from, the log and the loss
    curve. Until then DIR/NAME.partial has the log, a live curve and checkpoints. Ctrl-C stops after the current step,
    with a checkpoint.
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
        examined = _examine(order)
        say_advice(output, examined.advice)
        if strict and examined.advice:
            raise _strays(examined, as_json)
        if check:
            output.document(check_document(examined))
            say_check(output, examined, recipe)
            return
        registering = None if register is None else Registering.checked(register, url, examined.prepared.base, output)
        result = _run(order, examined, output)
        _finish(output, examined, result, key, registering)


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


def _finish(
    output: Output, examined: Examined, result: TrainResult, key: SigningKey | None, registering: Registering | None
) -> None:
    signature = None if key is None else write_signature(result.folder, key)[1]
    document = result_document(examined, result)
    if signature is not None:
        document["public_key"] = signature.key_text
    say_result(output, result, None if signature is None else signature.key_text)
    if registering is None:
        output.document(document)
        output.hint(
            f"loradock adapters check {result.folder}",
            f"loradock adapters register {result.name} {result.folder}",
        )
    else:
        answer = registering.send(result.folder, output)
        output.document(document | {"registered": answer})
        registering.tell(answer, output)


def _strays(examined: Examined, as_json: bool) -> Refused:
    """People have read the warnings above."""
    count = len(examined.advice)
    told = "; ".join(str(one) if as_json else one.where for one in examined.advice)
    return Refused(f"{count} warning{'s' * (count != 1)}, and --strict takes none: {told}", fix="change the recipe")


def _examine(order: _Order) -> Examined:
    try:
        # Here, not above: these packages come with the extra `train`, and take seconds to import.
        from loradock_adapters.training.examination import examine_recipe
    except ModuleNotFoundError as error:
        _without(error)
    try:
        return examine_recipe(order.recipe, order.base, order.limits, order.report_to)
    except (RecipeError, DataError) as error:
        raise Unreadable(str(error)) from error


def _run(order: _Order, examined: Examined, output: Output) -> TrainResult:
    try:
        from loradock_adapters.training.run import How, train_prepared
    except ModuleNotFoundError as error:
        _without(error)
    stop = StopRequest()

    def stopping() -> None:
        output.step("stopping after this step, with a checkpoint; press Ctrl-C again to leave at once")

    how = How(order.limits, order.resume, order.restart, told=output.step)
    with ExitStack() as stack:
        live = not output.as_json and output.err.is_terminal
        shown = stack.enter_context(LiveCurves(output.err)) if live else Lines(output.step)
        stack.enter_context(stopping_on_signals(stop, stopping))
        try:
            return train_prepared(examined.prepared, order.out, shown, how, stop)
        except CannotResume as error:
            raise Refused(str(error)) from error
        except TrainingStopped as error:
            again = f"go on with: loradock train {order.recipe} --out {order.out} --resume"
            raise Stopped(str(error), fix=again if error.step else None) from error


def _without(error: ModuleNotFoundError) -> NoReturn:
    raise Unreadable(
        f"training needs the package {error.name}, which is not installed",
        fix="install LoRADock with its training packages: loradock[train]",
    ) from error
