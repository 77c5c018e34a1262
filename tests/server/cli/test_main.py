"""The program as a whole: what its help says, how soon, and in which colours."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer
from typer.testing import Result

from loradock_server import __version__
from loradock_server.cli.adapters import AdaptersGroup
from loradock_server.cli.lazy import Lazy, load
from loradock_server.cli.main import RootGroup

HEAVY = ("httpx", "pydantic", "numpy", "sqlalchemy", "fastapi", "torch", "vllm", "transformers")
OF_THE_ENGINE = ("serve", "gateway", "engine")


def test_help_names_every_command_and_teaches_by_example(loradock: Callable[..., Result]) -> None:
    result = loradock("--help")

    assert result.exit_code == 0
    for name in RootGroup.lazy_commands:
        assert name in result.stdout
    assert "loradock adapters register support-bot ./my-adapter" in result.stdout


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from loradock_server.cli.main import app\n"
        "app(['--help'], standalone_mode=False)\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert result.stdout.endswith("HEAVY []\n")


@pytest.mark.parametrize("name", ["base", "train", "adapters", "keys"])
def test_no_command_needs_the_heavy_extras_to_show_its_help(name: str) -> None:
    program = (
        "import sys\n"
        "from loradock_server.cli.main import app\n"
        f"app([{name!r}, '--help'], standalone_mode=False)\n"
        "print('HEAVY', [n for n in ('torch', 'vllm', 'transformers') if n in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert result.stdout.endswith("HEAVY []\n")


def test_version_is_the_packages(loradock: Callable[..., Result]) -> None:
    result = loradock("--version")

    assert result.exit_code == 0
    assert result.stdout == f"loradock {__version__}\n"


def test_a_mistyped_command_is_a_usage_error_that_names_the_nearest(loradock: Callable[..., Result]) -> None:
    result = loradock("adaptres", "list")

    assert result.exit_code == 2
    assert "'adapters'" in result.stderr


def _own_lazies() -> Iterator[tuple[str, Lazy]]:
    for table in (RootGroup.lazy_commands, AdaptersGroup.lazy_commands):
        for name, lazy in table.items():
            if name not in OF_THE_ENGINE:
                yield name, lazy


@pytest.mark.parametrize(("name", "lazy"), list(_own_lazies()))
def test_a_listing_says_of_a_command_what_its_own_help_says_first(name: str, lazy: Lazy) -> None:
    command = load(name, lazy)

    assert command.help.split("\n\n")[0] == lazy.help


def _leaves(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    members = getattr(command, "commands", None)
    if members is None:
        yield path, command
        return
    for name, member in members.items():
        found = load(name, member.lazy) if hasattr(member, "lazy") else member
        yield from _leaves(found, f"{path} {name}")


def test_every_command_ends_its_help_with_an_example_of_itself() -> None:
    for name, lazy in RootGroup.lazy_commands.items():
        if name in OF_THE_ENGINE:
            continue
        for path, command in _leaves(load(name, lazy), f"loradock {name}"):
            assert command.epilog is not None, path
            assert f"  {path}" in command.epilog, path


def test_every_command_that_answers_something_can_answer_in_json() -> None:
    for name, lazy in RootGroup.lazy_commands.items():
        if name in OF_THE_ENGINE:
            continue
        for path, command in _leaves(load(name, lazy), f"loradock {name}"):
            assert any("--json" in option.opts for option in command.params), path


def _on_a_terminal(*arguments: str, **environment: str) -> bytes:
    ours, theirs = pty.openpty()
    program = "from loradock_server.cli.main import app; app()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={"PATH": os.environ["PATH"], "TERM": "xterm-256color", "LORADOCK_HOME": "home"} | environment,
    )
    os.close(theirs)
    seen = b""
    try:
        while piece := os.read(ours, 65536):
            seen += piece
    except OSError:  # how Linux says that the other end of a terminal is closed
        pass
    process.wait(120)
    os.close(ours)
    return seen


def test_colours_appear_on_a_terminal_unless_no_color_is_set() -> None:
    red = b"\x1b[1;31m"

    assert red in _on_a_terminal("adapters", "show", "Bad Name")
    assert red not in _on_a_terminal("adapters", "show", "Bad Name", NO_COLOR="1")


def test_no_escape_sequence_goes_into_a_pipe(loradock: Callable[..., Result]) -> None:
    result = loradock("adapters", "show", "Bad Name")

    assert result.exit_code == 2
    assert "\x1b" not in result.output


def test_an_installed_program_finds_the_app() -> None:
    assert isinstance(typer.main.get_command(_app()), RootGroup)


def _app() -> typer.Typer:
    from importlib.metadata import entry_points

    (script,) = entry_points(group="console_scripts", name="loradock")
    found = script.load()
    assert isinstance(found, typer.Typer)
    return found


def test_the_shell_completes_commands_that_are_not_imported_yet() -> None:
    program = "from loradock_server.cli.main import app; app(prog_name='loradock')"
    asked = {"_LORADOCK_COMPLETE": "complete_bash", "COMP_WORDS": "loradock adapters re", "COMP_CWORD": "2"}
    result = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | asked, capture_output=True, text=True, check=True
    )

    assert result.stdout.split() == ["register", "retire"]
