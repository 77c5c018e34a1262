"""Answers that are one of few labels, alone or as the only field of a JSON object: which one an answer names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from loradock_adapters.evaluating import reading_json

MOST = 20
_LONGEST = 40  # characters


def label_of(wanted: str) -> str:
    """The label that a wanted answer means: its text, or the text of the only field of its JSON object."""
    value = reading_json.whole(wanted)
    if isinstance(value, dict) and len(value) == 1:
        (only,) = value.values()
        if isinstance(only, str) and only.strip():
            return only.strip()
    return wanted.strip()


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of a data file, sorted."""

    names: tuple[str, ...]

    @classmethod
    def among(cls, wanted: Sequence[str]) -> Labels:
        return cls(tuple(sorted({label_of(text) for text in wanted})))

    def are_labels(self, examples: int) -> bool:
        """Few and short enough, and each used often enough, to be taken for labels."""
        return (
            2 <= len(self.names) <= min(MOST, max(2, examples // 5))
            and all(len(name) <= _LONGEST and "\n" not in name for name in self.names)
            and not any(reading_json.whole(name) is not reading_json.MISSING and name[0] in "{[" for name in self.names)
        )

    def named_in(self, answer: str) -> str | None:
        """The label that the answer names first, as a whole word, whatever the case; the longest of several there."""
        longest_first = sorted(self.names, key=len, reverse=True)
        pattern = "|".join(re.escape(name) for name in longest_first)
        found = re.search(rf"(?<!\w)(?:{pattern})(?!\w)", answer, re.IGNORECASE)
        if found is None:
            return None
        return next(name for name in longest_first if name.lower() == found[0].lower())
