"""docs/cli.md, written from the help texts, docs/api.md (`api_page`), and the tables of codes in docs/adapters.md.

`python -m loradock_server.cli.docs` in the top folder of a checkout; another folder may be named. It has no words of
its own about any command or code.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from loradock_adapters.check.codes import MEANINGS, NOTES
from loradock_server.cli import api_page
from loradock_server.cli.lazy import LazyCommand, load
from loradock_server.cli.main import app

_HEAD = """# The `loradock` command

<!-- Written by `make docs` from the help texts; change those, not this page. -->

Exit codes: 0 done, 1 refused or failed, 2 wrong use or nothing could be read or reached. With `--json` the
answer, errors too, is one JSON document on stdout.
"""


def page() -> str:
    """The whole page, in Markdown."""
    command = typer.main.get_command(app)
    return "\n".join([_HEAD, *_section(command, "loradock", None, 2)]).rstrip() + "\n"


# Any below: Typer's contexts and parameters have private classes.
def _section(command: Any, path: str, parent: Any, level: int) -> Iterator[str]:
    if isinstance(command, LazyCommand):
        command = load(command.name or "", command.lazy)
    context = command.context_class(command, info_name=path.rpartition(" ")[2], parent=parent)
    if parent is not None:
        yield f"{'#' * level} `{path}`\n"
    yield _prose(command.help)
    yield f"```console\n$ {' '.join([path, *command.collect_usage_pieces(context)])}\n```\n"
    yield from _parameters(command, context)
    yield from _examples(command.epilog)
    for name, member in getattr(command, "commands", {}).items():
        yield from _section(member, f"{path} {name}", context, min(level + (parent is not None), 4))


def _parameters(command: Any, context: Any) -> Iterator[str]:
    rows = [
        record
        for parameter in command.get_params(context)
        if parameter.name not in ("help", "install_completion", "show_completion")
        and (record := parameter.get_help_record(context)) is not None
    ]
    if rows:
        yield "| | |\n|---|---|"
        yield from (f"| `{_cell(names)}` | {_cell(text)} |" for names, text in rows)
        yield ""


def _examples(epilog: str | None) -> Iterator[str]:
    if epilog:
        lines = inspect.cleandoc(epilog).splitlines()[1:]
        yield "```console\n" + "\n".join(f"$ {line.strip()}" for line in lines) + "\n```\n"


def _prose(text: str | None) -> str:
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def with_codes(text: str) -> str:
    """The page about adapters with its tables of codes as they are now."""
    faults = [f"| `{code}` | {_cell(said.meaning)} | {_cell(said.fix)} |" for code, said in MEANINGS.items()]
    notes = [f"| `{code}` | {_cell(meaning)} |" for code, meaning in NOTES.items()]
    text = _replaced(text, "faults", ["| code | meaning | fix |", "|---|---|---|", *faults])
    return _replaced(text, "notes", ["| code | meaning |", "|---|---|", *notes])


def _replaced(text: str, name: str, lines: list[str]) -> str:
    before, start, rest = text.partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition("<!-- end -->")
    return before + start + "\n".join(lines) + "\n" + end + after


def main(arguments: list[str]) -> None:
    """Write the pages into the folder named first, by default docs below the current folder."""
    folder = Path(*(arguments[:1] or ["docs"]))
    (folder / "cli.md").write_text(page(), encoding="utf-8")
    (folder / "api.md").write_text(api_page.page(), encoding="utf-8")
    adapters = folder / "adapters.md"
    adapters.write_text(with_codes(adapters.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
