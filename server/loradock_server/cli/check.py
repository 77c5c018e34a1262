"""`loradock adapters check`: the server's own judgement of an adapter, without a server, and its exact repairs.

Adds no rule and no repair.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from loradock_adapters.base_config import read_from_config
from loradock_adapters.base_model import BaseModel, has_weights
from loradock_adapters.check import Limits, check_adapter
from loradock_adapters.errors import BaseModelError
from loradock_adapters.faults import Report
from loradock_adapters.repair import Repair, repair
from loradock_adapters.sources import SourceLimits
from loradock_server.cli.errors import NotDone, Refused, Unreadable
from loradock_server.cli.home import base_folder, read_settings, require_base
from loradock_server.cli.options import AsJson
from loradock_server.cli.output import Output, answering, fault_table, fields
from loradock_server.cli.sources import SOURCE_HELP, folder_of, is_archive, is_uri
from loradock_server.cli.upload import require_folder
from loradock_server.cli.wording import size
from loradock_server.limits import adapter_limits


def check(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help=SOURCE_HELP)],
    base: Annotated[
        Path | None,
        typer.Option(
            "--base",
            metavar="DIR",
            help="Folder of the base model, with its weights or, where transformers is installed, its config.json "
            "alone. Without it: the one this home folder's server serves.",
        ),
    ] = None,
    no_base: Annotated[
        bool,
        typer.Option("--no-base", help="Compare names and shapes with no base model, only with each other."),
    ] = False,
    max_rank: Annotated[int | None, typer.Option("--max-rank", min=1, help="Highest rank allowed.")] = None,
    max_bytes: Annotated[
        int | None,
        typer.Option("--max-bytes", min=1, help="Largest size allowed, all files, in bytes."),
    ] = None,
    fix: Annotated[
        Path | None,
        typer.Option(
            "--fix",
            metavar="OUT",
            help="Write the adapter to this new folder with every exact repair that applies: tensors renamed, .bin "
            "converted, PiSSA, OLoRA and CorDA turned into LoRA. Then it is checked again.",
        ),
    ] = None,
    initial: Annotated[
        Path | None,
        typer.Option(
            "--initial",
            metavar="DIR",
            help="For --fix: the PiSSA, OLoRA or CorDA adapter as it was before training. "
            "Without it: the folder inside PATH whose name says init.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say whether an adapter can be served, without a server, and everything that is wrong with it.

    Exit code 0: it can. 1: it cannot. 2: it, or the base model, could not be read. With --fix they are about what
    was written.
    """
    with answering(as_json) as output:
        settings = read_settings(max_rank=max_rank, max_adapter_bytes=max_bytes)
        limits = adapter_limits(settings)
        fetch = SourceLimits(max_bytes=settings.max_adapter_bytes, timeout=settings.source_timeout)
        with folder_of(source, fetch, output, pickles=fix is not None) as path:
            model = None if no_base else _base_model(base or base_folder(settings))
            if fix is None:
                did: tuple[str, ...] = ()
                report = check_adapter(path, model, limits)
            else:
                done = _repaired(path, fix, model, limits, initial)
                did, report = done.did, done.report
        judged = str(fix) if fix and did else source
        output.document(_document(judged, model, report) | ({} if fix is None else {"repaired": list(did)}))
        if fix is not None:
            output.say(*(did or ["nothing that an exact repair could change; nothing was written"]))
        _tell(judged, report, output, fixable=fix is None)
        if not report.complete:
            raise typer.Exit(Unreadable.exit_code)
        if not report.ok:
            raise typer.Exit(Refused.exit_code)


def _repaired(path: Path, out: Path, model: BaseModel | None, limits: Limits, initial: Path | None) -> Repair:
    if initial is not None:
        require_folder(initial)
    try:
        return repair(path, out, model, limits, initial=initial)
    except OSError as error:
        raise NotDone(f"{out} cannot be written: {error.strerror or error}") from error


def _base_model(folder: Path) -> BaseModel:
    try:
        return BaseModel.read(require_base(folder)) if has_weights(folder) else _from_config(folder)
    except BaseModelError as error:
        raise Unreadable(str(error), fix="name another folder with --base DIR") from error


def _from_config(folder: Path) -> BaseModel:
    require_base(folder)
    if not (folder / "config.json").exists():
        raise BaseModelError(f"{folder} has no config.json; give a folder as transformers saves it")
    return read_from_config(folder)


def _document(path: str, model: BaseModel | None, report: Report) -> dict[str, Any]:
    return {
        "path": path,
        "base": None if model is None else {"name": model.name, "digest": model.digest},
        **report.as_dict(),
    }


def _tell(path: str, report: Report, output: Output, *, fixable: bool) -> None:
    if report.ok:
        output.say(Text("fits: ", "bold green") + Text(path))
        output.say(
            fields(
                {
                    "rank": report.rank,
                    "alpha": report.alpha,
                    "targets": report.target_modules,
                    "parameters": f"{report.parameters:,}",
                    "size": size(report.size_bytes),
                }
            )
        )
    else:
        count = len(report.faults)
        output.say(Text(f"{count} {'fault' if count == 1 else 'faults'}: ", "bold red") + Text(path))
        faults = (fault.as_dict() for fault in report.faults)
        output.say(fault_table(faults, spaced=output.words.is_terminal))
    for warning in report.warnings:
        output.say(f"warning: {warning}")
    if report.ok:
        output.hint(f"loradock adapters register NAME {path}")
    elif fixable and any("--fix" in fault.fix for fault in report.faults):
        fixed = "./fixed" if is_uri(path) or is_archive(path) else f"{path}-fixed"
        output.hint(f"loradock adapters check {path} --fix {fixed}")
