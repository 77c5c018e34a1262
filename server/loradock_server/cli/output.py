"""Where a command's answer goes: words for people, or with `--json` exactly one JSON document on stdout.

Colours and progress bars appear only on a terminal, and never against NO_COLOR. Knows no command.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from loradock_adapters.errors import LoraDockError
from loradock_server.cli.errors import CommandError, JsonObject
from loradock_server.cli.wording import cell, printable

FAULT_COLUMNS = ("code", "where", "value", "limit", "fix")
_PIPE_WIDTH = 10_000  # into a pipe a row is one line, so that grep and awk work


class Output:
    """One command's answer. `words` and `err` are the rich consoles of stdout and stderr."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.words = _console(stderr=False)
        self.err = _console(stderr=True)

    def document(self, value: Any) -> None:
        """Show `value` as the JSON answer; nothing without `--json`."""
        if self.as_json:
            typer.echo(json.dumps(value, indent=2, default=str))

    def say(self, *lines: str | Text | Table) -> None:
        """Show lines to people; nothing with `--json`. Strings are text, never markup."""
        if not self.as_json:
            for line in lines:
                self.words.print(Text(line) if isinstance(line, str) else line, soft_wrap=_is_text(line))

    def hint(self, *commands: str) -> None:
        """Say what to do next, as lines to copy; nothing with `--json`."""
        if not self.as_json:
            for position, command in enumerate(commands):
                lead = "try: " if position == 0 else "     "
                self.words.print(Text(lead, "dim") + Text(command, "cyan"), soft_wrap=True)

    def progress(self, *columns: Any) -> Progress:
        """A progress bar on stderr, silent when stderr is not a terminal or the answer is JSON."""
        return Progress(*columns, console=self.err, transient=True, disable=self.as_json or not self.err.is_terminal)

    def step(self, what: str) -> None:
        """Say on stderr what is being done now; nothing with `--json`."""
        if not self.as_json:
            self.err.print(Text(printable(what), "dim"), soft_wrap=True)

    def error(self, error: CommandError) -> None:
        """Show why the command failed, with every fault and the fix."""
        if self.as_json:
            self.document(error.document)
            return
        # A server's message may repeat its faults line by line; the table below says them better.
        message = error.message.partition("\n")[0] if error.faults else error.message
        self.err.print(Text("error: ", "bold red") + Text(printable(message)), soft_wrap=True)
        if error.faults:
            self.err.print(fault_table(error.faults, spaced=self.err.is_terminal))
        if error.fix:
            self.err.print(Text("fix: ", "bold") + Text(printable(error.fix)), soft_wrap=True)


@contextmanager
def answering(as_json: bool) -> Iterator[Output]:
    """The boundary of every command: shows its errors and turns them into exit codes.

    Raises typer.Exit with 1 (refused, failed) or 2 (could not read or reach).
    """
    output = Output(as_json)
    try:
        yield output
    except CommandError as error:
        output.error(error)
        raise typer.Exit(error.exit_code) from None
    except LoraDockError as error:
        output.error(CommandError(str(error)))
        raise typer.Exit(CommandError.exit_code) from None


def table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> Table:
    """Rows under plain headings; cells are text, never markup, and long ones fold rather than vanish."""
    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        drawn.add_column(name, overflow="fold")
    for row in rows:
        drawn.add_row(*(value if isinstance(value, Text) else Text(cell(value)) for value in row))
    return drawn


def fault_table(faults: Iterable[JsonObject], *, spaced: bool) -> Table:
    """Every fault of an adapter with its code, where it is, the value, the limit and the fix.

    `spaced` puts an empty line between rows, which helps where cells fold.
    """
    drawn = table(
        FAULT_COLUMNS,
        ((Text(cell(f.get("code")), "red"), *(f.get(c) for c in FAULT_COLUMNS[1:])) for f in faults),
    )
    drawn.columns[0].no_wrap = True
    drawn.leading = int(spaced)
    return drawn


def fields(pairs: Mapping[str, object]) -> Table:
    """Names and values, one pair a line."""
    drawn = table(("", ""), ((Text(name, "bold"), value) for name, value in pairs.items()))
    drawn.show_header = False
    return drawn


def _is_text(line: object) -> bool:
    return isinstance(line, (str, Text))


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=_PIPE_WIDTH)
