"""The gate's rules, one at a time and together."""

from __future__ import annotations

from typing import Any

import pytest

from loradock_adapters.evaluation import Evaluation
from loradock_adapters.names import AdapterRef
from loradock_adapters.promotion_gate import Measured, PromotionGate

D1, D2 = "1" * 64, "2" * 64


def measured(version: int, *evaluations: tuple[str, dict[str, float], str | None]) -> Measured:
    documents = ({"task": task, "metrics": metrics, "data_sha256": data} for task, metrics, data in evaluations)
    return Measured(AdapterRef("bot", version), [Evaluation.read(document) for document in documents])


def score(version: int, value: float, *, task: str = "t", data: str | None = D1) -> Measured:
    return measured(version, (task, {"score": value}, data))


def rules(gate: str, candidate: Measured, live: Measured | None = None) -> list[str]:
    return [objection.rule for objection in PromotionGate.parse(gate).objections(candidate, live)]


@pytest.mark.parametrize(
    ("gate", "value", "refused"),
    [
        ("metric=score,threshold=0.5", 0.5, False),
        ("metric=score,threshold=0.5", 0.49, True),
        ("metric=score,direction=lower,threshold=0.5", 0.5, False),
        ("metric=score,direction=lower,threshold=0.5", 0.51, True),
        ("metric=other,threshold=0.5", 0.1, False),
        ("metric=score,task=elsewhere,threshold=0.5", 0.1, False),
    ],
)
def test_a_threshold_is_a_threshold(gate: str, value: float, refused: bool) -> None:
    assert rules(gate, score(2, value)) == ["threshold"] * refused


@pytest.mark.parametrize(
    ("gate", "before", "now", "refused"),
    [
        ("metric=score,no_worse_by=0.02", 0.5, 0.48, False),
        ("metric=score,no_worse_by=0.02", 0.5, 0.4799, True),
        ("metric=score,no_worse_by=0", 0.5, 0.5, False),
        ("metric=score,no_worse_by=0", 0.5, 0.499999, True),
        ("metric=score,direction=lower,no_worse_by=0.1", 1.0, 1.1, False),
        ("metric=score,direction=lower,no_worse_by=0.1", 1.0, 1.11, True),
        ("metric=score,direction=lower,no_worse_by=0.1", 1.0, 0.1, False),
    ],
)
def test_a_version_may_be_so_much_worse_than_the_live_one(gate: str, before: float, now: float, refused: bool) -> None:
    assert rules(gate, score(2, now), score(1, before)) == ["no_worse_by"] * refused
    assert rules(gate, score(2, now)) == [], "with nothing live there is nothing to compare"


def test_only_the_same_task_on_the_same_data_is_compared() -> None:
    gate = "metric=score,no_worse_by=0"
    assert rules(gate, score(2, 0.1), score(1, 0.9, data=D2)) == []
    assert rules(gate, score(2, 0.1), score(1, 0.9, task="u")) == []
    assert rules(gate, score(2, 0.1, data=None), score(1, 0.9, data=None)) == ["no_worse_by"]


def test_the_latest_of_each_task_counts_and_every_task_must_pass() -> None:
    gate = "metric=score,threshold=0.5"
    bad, good = ("t", {"score": 0.1}, D1), ("t", {"score": 0.9}, D1)
    assert rules(gate, measured(2, bad, good)) == []
    assert rules(gate, measured(2, good, bad)) == ["threshold"]
    assert rules(gate, measured(2, good, ("u", {"score": 0.1}, D1))) == ["threshold"]
    assert rules(f"{gate},task=t", measured(2, good, ("u", {"score": 0.1}, D1))) == []


def test_required_means_an_evaluation_with_that_metric_of_that_task() -> None:
    gate = "metric=score,required=true"
    assert rules(gate, measured(2)) == ["required"]
    assert rules(gate, measured(2, ("t", {"loss": 1.0}, None))) == ["required"]
    assert rules(gate, score(2, 0.0)) == []
    assert rules(f"{gate},task=u", score(2, 0.0)) == ["required"]


def test_an_objection_has_the_numbers() -> None:
    gate = PromotionGate.parse("metric=score,threshold=0.6,no_worse_by=0.05")
    below, worse = gate.objections(score(2, 0.4), score(1, 0.5))
    assert (below.value, below.limit, below.live) == (0.4, 0.6, None)
    assert (worse.version, worse.value, worse.live, worse.live_value) == ("bot@2", 0.4, "bot@1", 0.5)
    assert worse.limit == pytest.approx(0.45)
    for number in ("0.4", "bot@1", "0.5", "0.05"):
        assert number in worse.text


@pytest.mark.parametrize(
    "text",
    [
        "score",
        "metric=score",
        "threshold=1",
        "metric=score,threshold=high",
        "metric=score,threshold=nan",
        "metric=score,no_worse_by=-1",
        "metric=score,direction=up,required=true",
        "metric=score,required=maybe",
        "metric=score,threshhold=1",
        "metric=score,metric=loss,required=true",
        '{"metric": "score"',
    ],
)
def test_a_gate_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        PromotionGate.parse(text)


def test_json_says_the_same() -> None:
    said: dict[str, Any] = {"metric": "score", "no_worse_by": 0.02, "required": True}
    assert PromotionGate.parse('{"metric": "score", "no_worse_by": 0.02, "required": true}') == PromotionGate(**said)
    assert PromotionGate.parse("metric=score, no_worse_by=0.02, required=true") == PromotionGate(**said)
