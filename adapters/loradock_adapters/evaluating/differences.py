"""Where an answer differs from the wanted one, as pieces of text in their order. Knows no HTML."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

_MOST_WORDS = 1500  # of both together: comparing takes their product
_ALIKE = 0.5  # below that, marks would be everywhere


@dataclass(frozen=True, slots=True)
class Piece:
    """`same` stands in both, `more` in the answer only, `less` in the wanted one only; `other` is not compared."""

    kind: Literal["same", "more", "less", "other"]
    text: str


def differences(answer: str, wanted: str) -> tuple[Piece, ...]:
    """The answer, with what it has too much and what it lacks.

    One piece of `other` where the texts have too little in common to be read side by side, or are too long.
    """
    ours, theirs = _words(answer), _words(wanted)
    if len(ours) + len(theirs) > _MOST_WORDS:
        return (Piece("other", answer),)
    matcher = SequenceMatcher(None, theirs, ours, autojunk=False)
    if matcher.ratio() < _ALIKE:
        return (Piece("other", answer),) if answer else ()
    pieces: list[Piece] = []
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag == "equal":
            pieces.append(Piece("same", "".join(ours[c:d])))
            continue
        if b > a:
            pieces.append(Piece("less", "".join(theirs[a:b])))
        if d > c:
            pieces.append(Piece("more", "".join(ours[c:d])))
    return tuple(pieces)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|\s+|[^\w\s]", text)
