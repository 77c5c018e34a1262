"""What counts as right."""

from __future__ import annotations

import pytest

from loradock_adapters.training.scoring import exact, label_named, same_json, summary_overlap


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ('{"slots": {"area": "kitchen"}, "intent": "HassTurnOn"}', 1),
        ('Sure! Here it is: {"intent": "HassTurnOn", "slots": {"area": "kitchen"}} Enjoy.', 1),
        ('{"intent": "HassTurnOn", "slots": {"area": "office"}}', 0),
        ('{"intent": "HassTurnOn", "slots": {"area": "kitchen"', 0),
        ("The kitchen light is on.", 0),
        ("{" * 50_000, 0),
    ],
)
def test_json_is_compared_by_meaning_wherever_it_stands(answer: str, score: float) -> None:
    assert same_json(answer, '{"intent": "HassTurnOn", "slots": {"area": "kitchen"}}') == score


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ('{"label": "spam"}', 1),
        ("This looks like Spam, not ham.", 1),
        ("Ham. It is no spam.", 0),
        ("Spammers wrote this hamlet.", 0),
        ("", 0),
    ],
)
def test_the_first_label_word_counts(answer: str, score: float) -> None:
    assert label_named(answer, '{"label": "spam"}') == score


def test_overlap_is_the_f1_of_the_longest_common_subsequence() -> None:
    assert summary_overlap('"""Return the sum."""', '"""Return the sum."""') == 1
    assert summary_overlap('"""Return a sum."""', '"""Return the sum."""') == pytest.approx(2 / 3)
    assert summary_overlap('"""Sum the return."""', '"""Return the sum."""') == pytest.approx(1 / 3)
    assert summary_overlap("", '"""Return the sum."""') == 0


def test_a_docstring_inside_a_chatty_answer_is_what_counts() -> None:
    chatty = 'Here is the function:\n```python\ndef f():\n    """Return the sum."""\n    return 1\n```\nIt adds.'

    assert summary_overlap(chatty, '"""Return the sum."""') == 1


def test_exact_forgives_blanks_at_the_ends_only() -> None:
    assert exact(" a b\n", "a b") == 1
    assert exact("a  b", "a b") == 0
