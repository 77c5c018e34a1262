"""Commands that are named now and imported when they run, so that `loradock --help` stays quick.

A group has its heavy commands in a table, from which alone the listing is drawn. Knows no command by name.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup


@dataclass(frozen=True, slots=True)
class Lazy:
    """A command that lives elsewhere.

    `target` is `module:attribute`, a function or a Typer app. `help` is the line in the listing, `examples`
    the text below the command's own help (for functions; an app brings its own).
    """

    target: str
    help: str
    panel: str | None = None
    examples: str | None = None


def examples(text: str) -> str:
    """The epilog of a command's help: one example a line."""
    # The first line is empty because Typer dedents from the second one on.
    return "\nExamples:\n" + "\n".join("  " + line.strip() for line in text.strip().splitlines())


def new_app(**options: Any) -> typer.Typer:
    """A Typer app with this program's habits: never show local variables, which may hold keys."""
    return typer.Typer(
        no_args_is_help=options.pop("no_args_is_help", True),
        add_completion=options.pop("add_completion", False),
        pretty_exceptions_show_locals=False,
        rich_markup_mode="rich",
        **options,
    )


def load(name: str, lazy: Lazy) -> Any:
    """Import the command and build it. Raises ImportError or AttributeError when `target` names nothing."""
    module, _, attribute = lazy.target.partition(":")
    found: Callable[..., Any] | typer.Typer = getattr(importlib.import_module(module), attribute)
    if not isinstance(found, typer.Typer):
        app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False, rich_markup_mode="rich")
        app.command(name, epilog=lazy.examples)(found)
        found = app
    command = typer.main.get_command(found)
    command.name = name
    _unwrap(command)
    return command


def _unwrap(command: Any) -> None:
    """Let the terminal break the lines of a docstring, not the source file."""
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    for member in getattr(command, "commands", {}).values():
        _unwrap(member)


class LazyCommand(TyperCommand):
    """Stands in the listing for a command and becomes it when it is parsed."""

    def __init__(self, name: str, lazy: Lazy) -> None:
        super().__init__(name=name, help=lazy.help, rich_help_panel=lazy.panel)
        self.lazy = lazy

    # Any: the context's class is private to Typer.
    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        command = load(self.name or "", self.lazy)
        return command.make_context(info_name, args, parent=parent, **extra)


class LazyGroup(TyperGroup):
    """A group whose class lists lazy commands; they come in the table's order, before the others."""

    lazy_commands: ClassVar[Mapping[str, Lazy]] = {}

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        lazies = {name: LazyCommand(name, lazy) for name, lazy in self.lazy_commands.items()}
        self.commands = {**lazies, **self.commands}
