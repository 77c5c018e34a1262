"""What a check of training data found: findings with line numbers, figures, masks, and a verdict in words.

Values only; `data_check` makes them and the command line draws them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

SHOWN_LINES = 10


class Level(StrEnum):
    """How bad: training must not begin, or would teach something else than meant, or it is good to know."""

    FAULT = "fault"
    WARNING = "warning"
    NOTE = "note"


class Code(StrEnum):
    SCHEMA = "schema"
    EMPTY = "empty"
    TEMPLATE = "template"
    TOO_LONG = "too_long"
    DUPLICATE = "duplicate"
    NEAR_DUPLICATE = "near_duplicate"
    CONTRADICTION = "contradiction"
    LEAK = "leak"
    NEAR_LEAK = "near_leak"
    ONE_ANSWER = "one_answer"
    UNBALANCED = "unbalanced"
    MIXED_FORMATS = "mixed_formats"
    NO_TOKENIZER = "no_tokenizer"
    FEW = "few"


@dataclass(frozen=True, slots=True)
class Finding:
    """`lines`: numbers from 1 in the file that it is about; all of them, or for pairs the line and its partner."""

    code: Code
    level: Level
    text: str
    fix: str
    lines: tuple[tuple[int, ...], ...] = ()

    @property
    def where(self) -> str:
        """The first lines, and how many more."""
        shown = [" = ".join(str(number) for number in group) for group in self.lines[:SHOWN_LINES]]
        more = len(self.lines) - len(shown)
        return ", ".join(shown) + (f" and {more} more" if more else "")

    def as_dict(self) -> dict[str, Any]:
        return {
            "code": self.code.value,
            "level": self.level.value,
            "text": self.text,
            "fix": self.fix,
            "lines": [list(group) for group in self.lines],
        }


@dataclass(frozen=True, slots=True)
class Spread:
    """Of one figure over all examples."""

    least: int
    median: int
    p95: int
    most: int

    @classmethod
    def of(cls, values: list[int]) -> Spread:
        """Of at least one value."""
        ordered = sorted(values)
        return cls(ordered[0], ordered[len(ordered) // 2], ordered[int(0.95 * (len(ordered) - 1))], ordered[-1])


@dataclass(frozen=True, slots=True)
class Mask:
    """One example as the trainer sees it: pieces of text, and whether they are learned. `line` from 1."""

    line: int
    pieces: tuple[tuple[str, bool], ...]
    tokens: int
    learned: int


@dataclass(frozen=True, slots=True)
class DataReport:
    """`usable`: examples that would be trained on. `labels`: answers with their counts, where there are few."""

    examples: int
    usable: int
    formats: dict[str, int]
    findings: tuple[Finding, ...]
    tokens: Spread | None
    answer_tokens: Spread | None
    labels: tuple[tuple[str, int], ...]
    masks: tuple[Mask, ...]
    verdict: str

    @property
    def faulty(self) -> bool:
        return any(finding.level is Level.FAULT for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        return {
            "examples": self.examples,
            "usable": self.usable,
            "formats": self.formats,
            "findings": [finding.as_dict() for finding in self.findings],
            "tokens": None if self.tokens is None else asdict(self.tokens),
            "answer_tokens": None if self.answer_tokens is None else asdict(self.answer_tokens),
            "labels": [{"answer": answer, "count": count} for answer, count in self.labels],
            "masks": [asdict(mask) for mask in self.masks],
            "verdict": self.verdict,
        }
