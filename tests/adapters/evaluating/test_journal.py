"""What was answered is found again after a kill, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from loradock_adapters.evaluating.errors import CannotEvaluate
from loradock_adapters.evaluating.journal import Journal, key_of


def test_what_was_put_is_there_for_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "new" / "answers.jsonl"
    with Journal(path) as journal:
        journal.put("k1", {"text": "one\nline  "})
        assert path.read_text(encoding="utf-8").count("\n") == 1  # before it is closed
    with Journal(path) as journal:
        assert journal.get("k1") == {"text": "one\nline  "}
        assert journal.get("k2") is None


def test_half_a_line_is_cut_off_and_damaged_ones_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_bytes(b'{"key": "a", "text": "1"}\nnot json\n[]\n{"key": 3}\n{"text": 1}\n{"key": "b", "te')
    with Journal(path) as journal:
        assert (len(journal), journal.get("a"), journal.get("b")) == (1, {"text": "1"}, None)
        journal.put("b", {"text": "2"})
    with Journal(path) as journal:
        assert journal.get("b") == {"text": "2"}


def test_fresh_forgets(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        journal.put("a", {})
    with Journal(tmp_path / "j", fresh=True) as journal:
        assert len(journal) == 0


def test_two_runs_do_not_write_one_journal(tmp_path: Path) -> None:
    with Journal(tmp_path / "j"), pytest.raises(CannotEvaluate, match="another run is writing"):
        Journal(tmp_path / "j")


def test_a_link_to_another_file_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    (tmp_path / "j").symlink_to(tmp_path / "precious")
    with pytest.raises(CannotEvaluate, match="cannot write"):
        Journal(tmp_path / "j", fresh=True)
    assert (tmp_path / "precious").read_text() == "x"


def test_a_key_is_the_same_whatever_the_order() -> None:
    assert key_of(a=1, b={"c": 2, "d": 3}) == key_of(b={"d": 3, "c": 2}, a=1)
    assert key_of(a=1) != key_of(a="1")
