"""An outcome as JSON: `report.json` with every example, and the smaller document that is attached to the version."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from loradock_adapters.evaluating.contenders import Contender, Role
from loradock_adapters.evaluating.measuring import by_label
from loradock_adapters.evaluating.outcome import Measured, Outcome
from loradock_adapters.evaluating.statistics import CONFIDENCE, Comparison, Estimate
from loradock_adapters.names import AdapterRef

FORMAT = 1
_DIGITS = 6


def report(outcome: Outcome) -> dict[str, Any]:
    """All that was found, per example too, in the order of the data."""
    return summary(outcome) | {"examples": [_example(outcome, number) for number in range(len(outcome.data.examples))]}


def summary(outcome: Outcome) -> dict[str, Any]:
    """All that was found, without the single examples. `task` and `metrics` make it an evaluation."""
    ref = AdapterRef.parse(outcome.adapter.id)
    document: dict[str, Any] = {
        "format": FORMAT,
        "task": outcome.task,
        "verdict": {
            "kind": outcome.verdict.kind,
            "line": outcome.verdict.line,
            "metric": outcome.deciding.metric.name,
            "rival": outcome.verdict.rival,
            "needed_examples": outcome.verdict.needed,
            "rules": asdict(outcome.rules),
        },
        "metrics": metrics(outcome),
        "adapter": outcome.adapter.id,
        "version": ref.version,
        "adapter_digest": outcome.adapter.digest,
        "base": outcome.adapter.base,
        "data": outcome.data.path.name,
        "data_sha256": outcome.data.digest,
        "count": len(outcome.data.examples),
        "contenders": {contender.role: _contender(contender) for contender in outcome.contenders},
        "measured": {one.metric.name: _measured(one) for one in outcome.measured},
        "tokens": {role: _rounded(asdict(spent)) for role, spent in outcome.spent.items()},
        "prices_per_million": None
        if outcome.prices is None
        else {"prompt": outcome.prices[0], "answer": outcome.prices[1]},
        "decoding": {"greedy": True, **asdict(outcome.decoding)},
        "confidence": CONFIDENCE,
        "notes": list(outcome.notes),
        "created_at": outcome.created_at,
        "seconds": outcome.seconds,
    }
    if labels := by_label([example.answer for example in outcome.data.examples], outcome.measured):
        document["accuracy_by_label"] = {
            label: {"examples": count, **{role: _round(share) for role, share in each.items()}}
            for label, (count, each) in labels.items()
        }
    if outcome.forgetting is not None:
        document["forgetting"] = {"questions": _measured(outcome.forgetting.questions)}
        if outcome.forgetting.text is not None:
            document["forgetting"]["text"] = _measured(outcome.forgetting.text)
    return document


def metrics(outcome: Outcome) -> dict[str, float]:
    """The adapter's numbers by name, as the promotion gate reads them. `score` is the deciding metric's, if higher is
    better; `gain` is over the stronger rival, `gain_low` the lower end of its interval.
    """
    found = {one.metric.name: one.estimates["adapter"].mean for one in outcome.measured}
    if "loss" in found:
        found["perplexity"] = perplexity(found["loss"])
    first = outcome.deciding
    if first.metric.higher:
        found["score"] = first.estimates["adapter"].mean
    found["gain"] = first.over[first.strongest].gain
    found["gain_low"] = first.over[first.strongest].low
    if outcome.forgetting is not None:
        found["general"] = outcome.forgetting.questions.estimates["adapter"].mean
        found["general_gain"] = outcome.forgetting.questions.over["base"].gain
    return {name: _round(value) for name, value in found.items()}


def perplexity(loss: float) -> float:
    return math.exp(min(loss, 700.0))


def _contender(contender: Contender) -> dict[str, Any]:
    """Long prompts by their digest: the document has a size limit, and the prompt is in the user's own file."""
    made: dict[str, Any] = {"model": contender.model}
    if contender.role == "prompted":
        prompt = contender.prompt or ""
        made["prompt_sha256"] = hashlib.sha256(prompt.encode()).hexdigest() if prompt else None
        made["prompt"] = prompt if len(prompt) <= 2000 else f"{prompt[:2000]}…"
        made["shots"] = len(contender.shots)
    return made


def _measured(one: Measured) -> dict[str, Any]:
    made: dict[str, Any] = {role: _estimate(each) for role, each in one.estimates.items()}
    if one.metric.name == "loss":
        for role, each in one.estimates.items():
            made[role]["perplexity"] = _round(perplexity(each.mean))
    over = {f"adapter_over_{role}": _comparison(each) for role, each in one.over.items()}
    return {"better": "higher" if one.metric.higher else "lower", "words": one.metric.words, **made, **over}


def _estimate(one: Estimate) -> dict[str, Any]:
    return _rounded(asdict(one))


def _comparison(one: Comparison) -> dict[str, Any]:
    return _rounded(asdict(one) | {"ties": one.ties})


def _example(outcome: Outcome, number: int) -> dict[str, Any]:
    example = outcome.data.examples[number]
    values: Mapping[str, Mapping[Role, float]] = {
        one.metric.name: {role: _round(each[number]) for role, each in one.values.items()} for one in outcome.measured
    }
    return {
        "asked": example.context,
        "wanted": example.answer,
        "answers": {role: each[number].text for role, each in outcome.answers.items()},
        "values": values,
    }


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _round(value) if isinstance(value, float) else value for name, value in values.items()}


def _round(value: float) -> float:
    return round(value, _DIGITS)
