"""A check of training data: each finding on data that was made to have it, and none on data that is good."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from loradock_adapters.training.data import tokenize_one
from loradock_adapters.training.data_check import check_data
from loradock_adapters.training.data_report import Code, DataReport, Level
from loradock_adapters.training.errors import DataError
from loradock_adapters.training.formats import Example, Message
from tests.adapters.training.conftest import byte_tokenizer

pytest.importorskip("datasketch")

WORDS = [f"word{number}" for number in range(500)]


def sentence(seed: Any, length: int = 12) -> str:
    return " ".join(random.Random(str(seed)).choices(WORDS, k=length))


def row(asked: str, answer: str) -> dict[str, str]:
    return {"prompt": asked, "completion": answer}


def good(count: int, seed: str = "train") -> list[Any]:
    return [row(sentence((seed, n)), sentence((seed, n, "answer"))) for n in range(count)]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in rows))
    return path


def check(tmp_path: Path, rows: list[Any], **options: Any) -> DataReport:
    options = {"tokenizer": byte_tokenizer(), "max_length": 600, **options}
    return check_data(write(tmp_path / "train.jsonl", rows), **options)


def found(report: DataReport, code: Code) -> Any:
    return next((finding for finding in report.findings if finding.code is code), None)


def test_good_data_has_nothing_to_be_said_of_and_the_verdict_is_go(tmp_path: Path) -> None:
    held_out = write(tmp_path / "held_out.jsonl", good(20, "test"))
    report = check(tmp_path, good(500), held_out=held_out)
    assert (report.findings, report.verdict, report.faulty) == ((), "go", False)
    assert report.formats == {"prompt/completion": 500}


@pytest.mark.parametrize(
    ("count", "level", "verdict"),
    [(199, Level.WARNING, "format-only"), (200, Level.NOTE, "borderline"), (499, Level.NOTE, "borderline")],
)
def test_how_many_examples_there_are_decides_what_may_be_hoped_for(
    tmp_path: Path, count: int, level: Level, verdict: str
) -> None:
    report = check(tmp_path, good(count), tokenizer=None)
    assert found(report, Code.FEW).level is level
    assert verdict in report.verdict


def test_faulty_lines_are_grouped_by_what_is_wrong_with_them(tmp_path: Path) -> None:
    report = check(tmp_path, ["{", *good(3), row("a", ""), "", row("b", "")])
    finding = [one for one in report.findings if one.code is Code.SCHEMA]
    assert {one.lines for one in finding} == {((1,),), ((5,), (7,))}
    assert report.faulty
    assert report.verdict == "not fit to train on as it is"


def test_lengths_are_those_of_the_trainer_and_what_is_too_long_is_not_usable(tmp_path: Path) -> None:
    rows = [*good(5), row("x" * 700, "y")]
    report = check(tmp_path, rows)
    long = found(report, Code.TOO_LONG)
    assert (long.lines, long.level, report.usable) == (((6,),), Level.WARNING, 5)
    example = Example((Message("user", "x" * 700), Message("assistant", "y")))
    assert report.tokens is not None
    assert report.tokens.most == len(tokenize_one(byte_tokenizer(), example).input_ids)
    assert found(check(tmp_path, rows, max_length=20), Code.TOO_LONG).level is Level.FAULT


def test_doubles_and_contradictions_name_all_their_lines(tmp_path: Path) -> None:
    rows = good(30)
    rows += [rows[3], row(rows[5]["prompt"].upper(), "something else")]
    rows.append(row(rows[7]["prompt"], rows[7]["completion"].rsplit(" ", 1)[0] + " end"))
    report = check(tmp_path, rows)
    assert found(report, Code.DUPLICATE).lines == ((4, 31),)
    assert found(report, Code.NEAR_DUPLICATE).lines == ((8, 33),)
    assert found(report, Code.CONTRADICTION).lines == ((6, 32), (8, 33))


def test_a_held_out_question_that_is_trained_on_is_a_fault_and_a_near_one_a_warning(tmp_path: Path) -> None:
    rows = [row(sentence(n, 40), "yes" if n % 2 else "no") for n in range(30)]
    near = rows[9]["prompt"].rsplit(" ", 1)[0] + " end"
    held_out = write(tmp_path / "held_out.jsonl", [*good(3, "test"), row(rows[4]["prompt"], "other"), row(near, "yes")])
    report = check(tmp_path, rows, held_out=held_out)
    assert (found(report, Code.LEAK).lines, found(report, Code.LEAK).level) == (((4, 5),), Level.FAULT)
    assert (found(report, Code.NEAR_LEAK).lines, found(report, Code.NEAR_LEAK).level) == (((5, 10),), Level.WARNING)


def test_labels_are_counted_and_lopsided_or_lone_ones_are_said(tmp_path: Path) -> None:
    def labelled(yes: int, no: int) -> list[Any]:
        return [row(sentence(n), "yes" if n < yes else "no") for n in range(yes + no)]

    even = check(tmp_path, labelled(10, 10))
    assert even.labels == (("yes", 10), ("no", 10))
    assert found(even, Code.UNBALANCED) is None
    assert "17 of 20 answers are 'yes'" in found(check(tmp_path, labelled(17, 3)), Code.UNBALANCED).text
    assert found(check(tmp_path, labelled(20, 0)), Code.ONE_ANSWER) is not None
    assert check(tmp_path, good(20)).labels == ()


def test_masks_show_the_shortest_a_middle_and_the_longest_as_the_trainer_learns_them(tmp_path: Path) -> None:
    rows = [row("q" * length, "answer") for length in (30, 10, 20)]
    masks = check(tmp_path, rows).masks
    assert [mask.line for mask in masks] == [2, 3, 1]
    for mask, length in zip(masks, (10, 20, 30), strict=True):
        assert mask.pieces[-1] == ("answer<|im_end|>", True)
        assert [learned for _, learned in mask.pieces] == [False, True]
        assert "q" * length in mask.pieces[0][0]
        assert mask.learned == len("answer") + 1


def test_a_template_that_cannot_be_masked_is_one_fault_and_not_one_a_line(tmp_path: Path) -> None:
    report = check(
        tmp_path, good(10), tokenizer=byte_tokenizer("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    )
    assert [finding.code for finding in report.findings if finding.level is Level.FAULT] == [Code.TEMPLATE]
    assert report.usable == 0


def test_files_that_are_no_text_or_not_there_are_errors(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("binary", "nothing"):
        with pytest.raises(DataError):
            check_data(tmp_path / name)
    assert found(check(tmp_path, []), Code.EMPTY).level is Level.FAULT
