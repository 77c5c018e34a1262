"""pass@1: what a command is given, what it may not see, and that it ends."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import psutil
import pytest

from loradock_adapters.evaluating.command import Command
from loradock_adapters.evaluating.errors import CannotEvaluate


def passes(program: str, *words: str, answer: str = "a", seconds: float = 60.0) -> bool:
    command = Command((sys.executable, "-S", "-c", program, *words), seconds)
    return asyncio.run(command.passes(question="q", wanted="w", answer=answer))


def test_the_answer_comes_on_stdin_and_the_exit_code_decides() -> None:
    program = "import sys; sys.exit(sys.stdin.read() != 'yes\\n')"
    assert passes(program, answer="yes\n")
    assert not passes(program, answer="no")


def test_or_as_files() -> None:
    program = "import sys; sys.exit([open(name).read() for name in sys.argv[1:]] != ['q', 'w', '$(touch x)'])"
    assert passes(program, "{question}", "{wanted}", "{answer}", answer="$(touch x)")


def test_keys_are_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORADOCK_API_KEY", "ld-secret")
    monkeypatch.setenv("MY_SETTING", "yes")
    assert passes("import os, sys; sys.exit('LORADOCK_API_KEY' in os.environ or os.environ['MY_SETTING'] != 'yes')")


def test_a_command_that_does_not_end_is_killed_with_its_children(tmp_path: Path) -> None:
    """It gets the time that it may take, and no answer of it counts."""
    note = tmp_path / "child"
    program = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-S', '-c', 'while True: pass'])\n"
        f"open({str(note)!r}, 'w').write(str(child.pid))\n"
        "child.wait()\n"
    )
    assert not passes(program, seconds=3.0)
    if note.exists():  # on a very slow machine it did not come so far
        _wait_until_gone(int(note.read_text()))


def _wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return
        except psutil.NoSuchProcess:
            return
        time.sleep(0.05)
    raise AssertionError(f"{pid} still runs")


def test_a_child_that_was_left_behind_ends_too(tmp_path: Path) -> None:
    note = tmp_path / "child"
    program = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-S', '-c', 'while True: pass'])\n"
        f"open({str(note)!r}, 'w').write(str(child.pid))\n"
    )
    assert passes(program)
    _wait_until_gone(int(note.read_text()))


@pytest.mark.parametrize("text", ["", "   ", "python 'unclosed"])
def test_what_is_no_command_is_said(text: str) -> None:
    with pytest.raises(CannotEvaluate):
        Command.read(text, 1.0)


def test_a_program_that_is_not_there_is_said() -> None:
    with pytest.raises(CannotEvaluate, match="cannot be started"):
        asyncio.run(Command.read("/no/such/program {answer}", 1.0).passes(question="", wanted="", answer=""))
