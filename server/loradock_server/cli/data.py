"""`loradock data check`: training data judged before hours go into it. The judgement is the adapters side's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from loradock_adapters.training.data_check import check_data
from loradock_adapters.training.data_report import DataReport, Level, Mask, Spread
from loradock_adapters.training.errors import DataError
from loradock_server.cli.errors import Refused, Unreadable
from loradock_server.cli.home import base_folder, read_settings
from loradock_server.cli.lazy import examples, new_app
from loradock_server.cli.options import AsJson
from loradock_server.cli.output import Output, answering, fields, table
from loradock_server.cli.wording import printable

if TYPE_CHECKING:
    from loradock_adapters.training.data_check import Decoder

app = new_app(name="data", help="Judge training data.")
_COLOURS = {Level.FAULT: "red", Level.WARNING: "yellow", Level.NOTE: "cyan"}
_SHOWN_CHARACTERS = 600


@app.callback()
def data() -> None:
    """Judge training data."""


@app.command(
    "check",
    epilog=examples("""
        loradock data check train.jsonl
        loradock data check train.jsonl --held-out held_out.jsonl --max-length 512
        loradock data check train.jsonl --base ./model --json
    """),
)
def check(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="JSON lines: chat messages, prompt and completion, or Alpaca's instruction, input and output.",
        ),
    ],
    held_out: Annotated[
        Path | None,
        typer.Option("--held-out", metavar="FILE", help="The data to be measured on; it must not overlap."),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(
            "--base", metavar="DIR", help="Whose tokenizer and chat template. Default: the base of this home."
        ),
    ] = None,
    max_length: Annotated[
        int, typer.Option("--max-length", min=8, help="Tokens of the longest example, as the recipe says.")
    ] = 256,
    as_json: AsJson = False,
) -> None:
    """Say everything that is wrong with training data, and show what of it would be learned.

    Exit code 0: fit to train on, perhaps with warnings. 1: faults. 2: could not be read.
    """
    with answering(as_json) as output:
        tokenizer = _tokenizer(base)
        try:
            with output.progress(TextColumn("checking"), BarColumn(), TimeRemainingColumn()) as bar:
                task = bar.add_task("checking", total=None)
                report = check_data(
                    file,
                    held_out=held_out,
                    tokenizer=tokenizer,
                    max_length=max_length,
                    advance=lambda: bar.advance(task),
                )
        except DataError as error:
            raise Unreadable(str(error)) from error
        except ModuleNotFoundError as error:
            raise Unreadable(
                f"to find near duplicates takes the package {error.name}, which is not installed",
                fix="install LoRADock with its training packages: loradock[train]",
            ) from error
        output.document(report.as_dict())
        _say(output, report)
        if report.faulty:
            if not as_json:
                raise Refused(f"{file} is {report.verdict}")
            raise typer.Exit(1)


def _tokenizer(base: Path | None) -> Decoder | None:
    """The base's, or none where neither base nor library is at hand; one that was named must be there."""
    folder = base or base_folder(read_settings())
    if not (folder / "tokenizer_config.json").is_file():
        if base is not None:
            raise Unreadable(f"no tokenizer at {base}", fix="name a folder as transformers saves it")
        return None
    try:
        from transformers import AutoTokenizer
    except ModuleNotFoundError as error:
        if base is not None:
            raise Unreadable(
                "a tokenizer needs the package transformers, which is not installed", fix="install loradock[train]"
            ) from error
        return None
    try:
        tokenizer: Decoder = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise Unreadable(f"the tokenizer in {folder} cannot be read: {error}") from error
    return tokenizer


def _say(output: Output, report: DataReport) -> None:
    facts: dict[str, Any] = {
        "examples": report.examples,
        "usable": report.usable,
        "format": ", ".join(f"{count} {kind}" for kind, count in report.formats.items()),
    }
    for name, spread in (("tokens", report.tokens), ("learned tokens", report.answer_tokens)):
        if spread is not None:
            facts[name] = _spread(spread)
    if report.labels:
        facts["answers"] = ", ".join(f"{printable(answer)[:40]} ({count})" for answer, count in report.labels)
    output.say(fields(facts))
    if report.findings:
        rows = ((Text(f.level.value, _COLOURS[f.level]), f.code.value, f.where, f.text, f.fix) for f in report.findings)
        output.say("", table(("level", "code", "lines", "what", "fix"), rows))
    for mask in report.masks:
        output.say("", *_drawn(mask))
    output.say("", Text("verdict: ", "bold") + Text(report.verdict, "red" if report.faulty else "green"))


def _spread(spread: Spread) -> str:
    return f"{spread.least} … {spread.most}, median {spread.median}, 95 % up to {spread.p95}"


def _drawn(mask: Mask) -> tuple[Text, Text]:
    """The example's text; what is learned is bold on a terminal, and between ⟦ and ⟧ anywhere."""
    head = Text(f"line {mask.line}: {mask.learned} of {mask.tokens} tokens are learned, those in ⟦ ⟧", "dim")
    body = Text()
    for text, learned in mask.pieces:
        shown = printable(text)
        if len(shown) > _SHOWN_CHARACTERS:
            shown = f"{shown[: _SHOWN_CHARACTERS // 2]} … {shown[-_SHOWN_CHARACTERS // 2 :]}"
        body += Text(f"⟦{shown}⟧", "bold green") if learned else Text(shown, "dim")
    return head, body
