"""One line of a data file as a conversation, in each of the formats that people have."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loradock_adapters.training.formats import Example, Message, read_line

QUESTION, ANSWER = Message("user", "hi"), Message("assistant", "hello")


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}, "messages"),
        ({"prompt": "hi", "completion": "hello"}, "prompt/completion"),
        (
            {
                "prompt": [{"role": "user", "content": "hi"}],
                "completion": [{"role": "assistant", "content": "hello"}],
            },
            "prompt/completion",
        ),
        ({"instruction": "hi", "output": "hello"}, "alpaca"),
        ({"instruction": "hi", "input": "", "output": "hello", "text": "left alone"}, "alpaca"),
    ],
)
def test_every_format_gives_the_same_conversation(row: dict[str, Any], kind: str) -> None:
    assert read_line(json.dumps(row)) == (kind, Example((QUESTION, ANSWER)))


def test_an_input_of_alpaca_follows_the_instruction() -> None:
    found = read_line(json.dumps({"instruction": "Translate.", "input": "Haus", "output": "house"}))
    assert not isinstance(found, str)
    assert found[1].context == [{"role": "user", "content": "Translate.\n\nHaus"}]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "a"}, "no example: it has 'prompt'; an example has a \"messages\" list"),
        ({}, "no example: it has nothing"),
        ("text", "a JSON str"),
        (3, "a JSON int"),
        ({"prompt": "a", "completion": " "}, '"completion" has no text'),
        ({"prompt": 1, "completion": "b"}, '"prompt" has no text'),
        ({"prompt": ["a"], "completion": ["b"]}, "message 1 is not an object"),
        ({"instruction": "a", "input": 3, "output": "b"}, '"input" is int'),
        ({"instruction": None, "input": "b", "output": "c"}, '"instruction" has no text'),
        ({"messages": None}, 'no "messages" list'),
        ({"messages": [{"role": ["x"], "content": "a"}, {"role": "assistant", "content": "b"}]}, "message 1 has role"),
    ],
)
def test_what_is_no_example_is_described(row: Any, said: str) -> None:
    found = read_line(json.dumps(row))
    assert isinstance(found, str)
    assert said in found
