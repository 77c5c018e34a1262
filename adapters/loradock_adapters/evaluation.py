"""How well a version did on held-out data, as somebody measured it: a document with numbers, read strictly.

It takes any document with `task` and `metrics`, such as `loradock evaluate` writes, and numbers under the name
`adapter` too, as earlier examples had them. It measures nothing itself.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loradock_adapters.errors import InvalidEvaluation

MAX_BYTES = 256 << 10
MAX_METRICS = 100

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./@ -]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`metrics`: numbers by name. `data_sha256`, `adapter_digest`, `base_digest`: of what, if it says so."""

    task: str
    metrics: Mapping[str, float]
    data_sha256: str | None
    adapter_digest: str | None
    base_digest: str | None
    document: Mapping[str, Any]

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Evaluation:
        """Raises InvalidEvaluation."""
        try:
            size = len(json.dumps(document, allow_nan=False))
        except (ValueError, RecursionError) as error:
            raise InvalidEvaluation(f"the evaluation is not JSON: {error}") from error
        if size > MAX_BYTES:
            raise InvalidEvaluation(f"the evaluation has {size} bytes as JSON; at most {MAX_BYTES} are kept")
        task = document.get("task")
        if not isinstance(task, str) or not _NAME.fullmatch(task):
            raise InvalidEvaluation(f"task is {_shown(task)}; it must be a short name of what was measured")
        found = document.get("metrics", document.get("adapter"))
        return cls(
            task=task,
            metrics=_metrics(found),
            data_sha256=_digest(document, "data_sha256"),
            adapter_digest=_digest(document, "adapter_digest"),
            base_digest=_digest(document, "base_digest"),
            document=document,
        )


def _metrics(found: Any) -> Mapping[str, float]:
    if not isinstance(found, Mapping) or not 1 <= len(found) <= MAX_METRICS:
        raise InvalidEvaluation(
            f'the evaluation needs `metrics`, 1 to {MAX_METRICS} numbers by name: {{"metrics": {{"score": 0.9}}}} '
            "(or the same under `adapter`)"
        )
    numbers = {}
    for name, value in found.items():
        if not _NAME.fullmatch(name):
            raise InvalidEvaluation(f"the metric's name {_shown(name)} is not allowed; use letters, digits, _./@-")
        # A whole number beyond a float's range has no float at all.
        if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 1e300 or math.isnan(value):
            raise InvalidEvaluation(f"the metric {name} is {_shown(value)}; it must be a number")
        numbers[name] = float(value)
    return numbers


def _digest(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise InvalidEvaluation(f"{name} is {_shown(value)}; it must be a SHA-256 of 64 hexadecimal digits")
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
