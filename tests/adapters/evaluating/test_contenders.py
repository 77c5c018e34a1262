"""What each contender is sent, which examples the base is shown, and that none of them is a held-out one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from loradock_adapters.evaluating.contenders import Contender, choose_shots, refuse_leaks
from loradock_adapters.evaluating.errors import CannotEvaluate
from loradock_adapters.training.data import DataFile
from loradock_adapters.training.formats import Example, Message


def example(question: str, answer: str, system: str | None = None) -> Example:
    head = () if system is None else (Message("system", system),)
    return Example((*head, Message("user", question), Message("assistant", answer)))


def file(*examples: Example, name: str = "train.jsonl") -> DataFile:
    return DataFile(Path(name), "0" * 64, examples)


def test_without_prompt_and_examples_the_context_is_sent_as_it_is() -> None:
    asked = example("q", "a", system="be brief")
    assert Contender("base", "m").messages(asked) == asked.context


def test_prompt_and_examples_stand_in_front_and_there_is_one_system_message() -> None:
    contender = Contender("prompted", "m", "Answer in JSON.", (example("1?", "one", system="be brief"),))
    assert contender.messages(example("2?", "two", system="be brief")) == [
        {"role": "system", "content": "Answer in JSON.\n\nbe brief"},
        {"role": "user", "content": "1?"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "2?"},
    ]


def test_examples_are_drawn_by_the_seed_and_none_twice() -> None:
    train = file(*(example(f"q{n % 50}", f"a{n}") for n in range(100)))
    one, again, other = (choose_shots(train, 8, seed) for seed in (1, 1, 2))
    assert one == again != other
    assert len({shot.messages[0].content for shot in one}) == 8


def test_of_few_labels_each_is_shown() -> None:
    train = file(*(example(f"q{n}", "rare" if n == 7 else "common") for n in range(100)))
    assert Counter(shot.answer for shot in choose_shots(train, 4, 1)) == {"common": 3, "rare": 1}


def test_more_examples_than_there_are_is_refused() -> None:
    with pytest.raises(CannotEvaluate, match="2 different questions, 3"):
        choose_shots(file(example("a", "1"), example("b", "2"), example("A ", "3")), 3, 1)


def test_a_held_out_question_among_the_training_data_is_refused() -> None:
    train = file(example("one", "1"), example("Two  words", "2"))
    held_out = file(example("three", "3"), example("two words", "2"), name="held_out.jsonl")
    with pytest.raises(CannotEvaluate, match=r"1 of 2 held-out questions stand in train.jsonl too .*2 = 2"):
        refuse_leaks(held_out, train)
    refuse_leaks(file(example("three", "3")), train)
