"""The committed questions: all there, all different, and judged by whole words."""

from __future__ import annotations

import pytest

from loradock_adapters.evaluating.general import Question, read_general


def test_there_are_forty_questions_and_a_dozen_texts() -> None:
    known = read_general()
    assert len({question.text for question in known.questions}) == len(known.questions) == 40
    assert len(set(known.texts)) == len(known.texts) == 12
    assert all(question.accepted and all(question.accepted) for question in known.questions)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("There are 12 months in a year.", True),
        ("TWELVE!", True),
        ("112", False),
        ("Twelvefold", False),
        ("", False),
    ],
)
def test_an_answer_is_right_when_the_word_stands_in_it(answer: str, right: bool) -> None:
    assert Question("How many months?", ("twelve", "12")).is_right(answer) == right


def test_a_word_with_signs_in_it_is_found_too() -> None:
    assert Question("", ("H2O", "H\u2082O")).is_right("It is H\u2082O.")
    assert not Question("", (".*",)).is_right("anything")
