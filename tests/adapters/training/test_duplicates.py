"""Equal and nearly equal texts."""

from __future__ import annotations

import random

import pytest

from loradock_adapters.training.duplicates import distinct, groups, near_pairs, whole_text
from loradock_adapters.training.formats import Example, Message

pytest.importorskip("datasketch")

WORDS = [f"word{number}" for number in range(400)]


def text(seed: int, length: int = 60) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def changed(original: str, every: int) -> str:
    """The same with one word in so many replaced."""
    return " ".join(f"other{i}" if i % every == every - 1 else word for i, word in enumerate(original.split()))


def test_case_and_blanks_make_no_difference() -> None:
    one, other = (
        Example((Message("user", asked), Message("assistant", "yes"))) for asked in ("Is it  so?\n", "is it so?")
    )
    assert whole_text(one) == whole_text(other)
    assert groups([whole_text(one), "x", whole_text(other)]) == [[0, 2]]


def test_a_text_with_a_word_changed_is_near_and_one_with_many_changed_is_not() -> None:
    texts = [text(1), text(2), changed(text(1), 60), changed(text(2), 4), text(3)]
    assert near_pairs(texts) == [(0, 2)]


def test_pairs_between_two_lists_are_positions_in_each_and_equal_ones_do_not_count() -> None:
    pool = [text(number) for number in range(50)]
    asked = [text(99), changed(text(7), 50), text(8)]
    assert near_pairs(asked, pool) == [(1, 7)]


def test_short_texts_are_never_near() -> None:
    assert near_pairs(["turn on the light", "turn on the lights"]) == []


def test_distinct_keeps_the_first_of_those_that_are_near_and_drops_questions_with_two_answers() -> None:
    def example(asked: str, answer: str) -> Example:
        return Example((Message("user", asked), Message("assistant", answer)))

    first, other, torn = text(1), text(2), text(3)
    examples = [
        example(first, "yes"),
        example(changed(first, 30), "yes"),
        example(torn, "yes"),
        example(other, "no"),
        example(torn.upper(), "no"),
        example(other, "no"),
    ]

    assert distinct(examples) == [examples[0], examples[3]]
