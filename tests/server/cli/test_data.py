"""`loradock data check` as a person and as a script see it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from tests.adapters.training.conftest import byte_tokenizer
from tests.adapters.training.test_data_check import good, row, write

Run = Callable[..., Result]


@pytest.fixture
def base(tmp_path: Path) -> str:
    byte_tokenizer().save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def test_good_data_is_exit_code_0_with_its_figures_and_what_is_learned(
    loradock: Run, base: str, tmp_path: Path
) -> None:
    result = loradock(
        "data", "check", str(write(tmp_path / "d.jsonl", good(500))), "--base", base, "--max-length", "999"
    )

    assert result.exit_code == 0, result.output
    assert "500 prompt/completion" in result.stdout
    assert result.stdout.count("tokens are learned") == 3
    assert "<|im_end|>⟧" in result.stdout
    assert result.stdout.rstrip().endswith("verdict: go")


def test_faults_are_exit_code_1_with_their_lines(loradock: Run, base: str, tmp_path: Path) -> None:
    file = str(write(tmp_path / "d.jsonl", [*good(3), "{", row("a", "")]))

    result, scripted = (loradock("data", "check", file, "--base", base, *more) for more in ((), ("--json",)))

    assert (result.exit_code, scripted.exit_code) == (1, 1)
    assert '"completion" has no text' in result.stdout
    assert "not fit to train on" in result.stderr
    found = [finding for finding in json.loads(scripted.stdout)["findings"] if finding["code"] == "schema"]
    assert [finding["lines"] for finding in found] == [[[4]], [[5]]]


def test_a_hostile_example_cannot_move_the_cursor(loradock: Run, base: str, tmp_path: Path) -> None:
    file = str(write(tmp_path / "d.jsonl", [row("\x1b[2Jhello [red]x[/red]", "\x9b1A")]))

    result = loradock("data", "check", file, "--base", base)

    assert not {"\x1b", "\x9b"} & set(result.stdout)
    assert "[red]x[/red]" in result.stdout


def test_files_that_cannot_be_read_are_exit_code_2(loradock: Run, base: str, tmp_path: Path) -> None:
    assert loradock("data", "check", str(tmp_path / "nothing"), "--base", base).exit_code == 2
    missing = loradock("data", "check", str(write(tmp_path / "d.jsonl", good(2))), "--base", str(tmp_path / "none"))
    assert missing.exit_code == 2
    assert "no tokenizer at" in missing.stderr
