"""Evaluations are read strictly, and the results of our examples are such."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loradock_adapters.errors import InvalidEvaluation
from loradock_adapters.evaluation import MAX_BYTES, Evaluation

EXAMPLES = Path(__file__).parents[2] / "adapters" / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*/result.json")), ids=lambda path: path.parent.name)
def test_the_result_of_an_example_is_an_evaluation(path: Path) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    evaluation = Evaluation.read(document)
    assert evaluation.task == path.parent.name
    assert evaluation.metrics == document.get("metrics", document["adapter"])
    assert (evaluation.data_sha256, evaluation.adapter_digest) == (document["data_sha256"], document["adapter_digest"])


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"task": "t"},
        {"task": 3, "metrics": {"a": 1}},
        {"task": "", "metrics": {"a": 1}},
        {"task": "x" * 101, "metrics": {"a": 1}},
        {"task": "t\n", "metrics": {"a": 1}},
        {"task": "t", "metrics": {}},
        {"task": "t", "metrics": [1]},
        {"task": "t", "metrics": {"a": "1"}},
        {"task": "t", "metrics": {"a": True}},
        {"task": "t", "metrics": {"a": None}},
        {"task": "t", "metrics": {"a": float("nan")}},
        {"task": "t", "metrics": {"a": float("inf")}},
        {"task": "t", "metrics": {"a": 10**400}},
        {"task": "t", "metrics": {"a\x1b": 1}},
        {"task": "t", "metrics": {f"m{n}": n for n in range(101)}},
        {"task": "t", "metrics": {"a": 1}, "data_sha256": "abc"},
        {"task": "t", "metrics": {"a": 1}, "adapter_digest": 3},
        {"task": "t", "metrics": {"a": 1}, "note": float("inf")},
        {"task": "t", "metrics": {"a": 1}, "note": "x" * MAX_BYTES},
    ],
    ids=range(20),
)
def test_what_is_none_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(InvalidEvaluation) as raised:
        Evaluation.read(document)
    assert len(str(raised.value)) < 400
