"""A small set of general questions with checkable answers, and general text: what a fine-tune may forget.

Written for this project, under its licence; simple enough that a model of a hundred million weights knows a part.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources

from loradock_adapters.evaluating.errors import CannotEvaluate
from loradock_adapters.strict_json import parse_object

LONGEST_ANSWER = 48  # tokens


@dataclass(frozen=True, slots=True)
class Question:
    """Right is an answer in which one of `accepted` stands as whole words."""

    text: str
    accepted: tuple[str, ...]

    def is_right(self, answer: str) -> bool:
        return any(_stands(word, answer) for word in self.accepted)


@dataclass(frozen=True, slots=True)
class General:
    questions: tuple[Question, ...]
    texts: tuple[str, ...]


def read_general() -> General:
    """The committed set."""
    data = resources.files(__package__).joinpath("general.json").read_bytes()
    document = parse_object(data)
    try:
        return General(
            tuple(Question(one["ask"], tuple(one["accept"])) for one in document["questions"]),
            tuple(document["texts"]),
        )
    except (KeyError, TypeError) as error:  # a broken installation
        raise CannotEvaluate(f"general.json is damaged: {error}", fix="install LoRADock again") from error


def _stands(word: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None
