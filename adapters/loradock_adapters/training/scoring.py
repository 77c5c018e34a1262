"""How close an answer is to the wanted one: small measures in plain Python, each 0 (wrong) to 1 (right).

Knows no model. They read an answer as kindly as they can, so that a base model that was never told the format is
judged by what it says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import islice
from typing import Any

_TRIES = 50  # an answer of nothing but braces would take for ever

Measure = Callable[[str, str], float]
"""(answer, wanted) → score."""


def exact(answer: str, wanted: str) -> float:
    """1 where the texts agree but for blanks at the ends."""
    return float(answer.strip() == wanted.strip())


def same_json(answer: str, wanted: str) -> float:
    """1 where the first JSON object in the answer equals the wanted one, whatever stands around it."""
    return float(_first_object(answer) == json.loads(wanted))


def label_named(answer: str, wanted: str) -> float:
    """1 where the first label word in the answer is the wanted one; labels are "spam" and "ham"."""
    label = json.loads(wanted)["label"]
    named = re.search(r"\b(spam|ham)\b", answer.lower())
    return float(named is not None and named[1] == label)


def summary_overlap(answer: str, wanted: str) -> float:
    """ROUGE-L F1 of the words in the first docstring of the answer, or in all of it when it has none."""
    found, expected = _words(_docstring(answer)), _words(_docstring(wanted))
    if not found or not expected:
        return 0.0
    common = _longest_common(found, expected)
    return 2 * common / (len(found) + len(expected))


def _first_object(text: str) -> Any:
    """The first JSON object in a text, or None."""
    for start in islice(re.finditer(r"\{", text), _TRIES):
        try:
            return json.JSONDecoder().raw_decode(text, start.start())[0]
        except (json.JSONDecodeError, RecursionError):
            continue
    return None


def _docstring(text: str) -> str:
    quoted = re.search(r'("""|\'\'\')(.*?)(\1|\Z)', text, re.DOTALL)
    return quoted[2] if quoted else text


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9_]+", text.lower())


def _longest_common(a: list[str], b: list[str]) -> int:
    """Length of the longest common subsequence."""
    previous = [0] * (len(b) + 1)
    for word in a:
        row = [0]
        for column, other in enumerate(b):
            row.append(previous[column] + 1 if word == other else max(previous[column + 1], row[column]))
        previous = row
    return previous[-1]
