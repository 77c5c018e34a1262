"""What is measured of an answer: each metric a number from 0 (wrong) to 1 (right), by its name.

Only metrics that read the answer itself; loss, commands and judges are measured elsewhere and named here. Which metrics
suit a data file is decided here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loradock_adapters.evaluating import reading_json
from loradock_adapters.evaluating.errors import CannotEvaluate
from loradock_adapters.evaluating.labels import Labels, label_of

Measure = Callable[[str, str], float]
"""(answer, wanted) → 0 … 1."""

_PATTERN_SECONDS = 1.0
_FEW_WORDS = 3


@dataclass(frozen=True, slots=True)
class Metric:
    """`binary`: only 0 or 1. `higher`: more is better. `unit`: how people read it."""

    name: str
    words: str
    binary: bool
    higher: bool = True


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("exact", "the answer is the wanted text, but for blanks at the ends", True),
        Metric("json_equal", "the first JSON in the answer equals the wanted one", True),
        Metric("field_f1", "F1 over the fields of the first JSON in the answer", False),
        Metric("json_valid", "the whole answer is one JSON value", True),
        Metric("json_schema", "the whole answer is JSON that satisfies the schema", True),
        Metric("accuracy", "the label that the answer names first is the wanted one", True),
        Metric("regex", "the pattern is found in the answer", True),
        Metric("rouge_l", "ROUGE-L F1 of the answer's words", False),
        Metric("pass@1", "the command takes the answer", True),
        Metric("judge", "the judge prefers the adapter's answer to the prompted base's, in either order", False),
        Metric("loss", "nats per token of the wanted answer, stop token included", False, higher=False),
    )
}
ELSEWHERE = ("pass@1", "judge", "loss")


@dataclass(frozen=True, slots=True)
class Means:
    """What some metrics need: a JSON schema, a pattern, whether there is a command, a judge, and a loss."""

    schema: Mapping[str, Any] | bool | None = None
    pattern: str | None = None
    command: bool = False
    judge: bool = False
    loss: bool = True


def choose(names: Sequence[str], means: Means, wanted: Sequence[str]) -> tuple[Metric, ...]:
    """The metrics, the deciding one first: those that were named, or those that suit the wanted answers.

    What was given for a metric (a schema, a command …) is a wish to measure it. Raises CannotEvaluate.
    """
    given = {"json_schema": means.schema is not None, "regex": means.pattern is not None}
    given |= {"pass@1": means.command, "judge": means.judge, "loss": means.loss}
    for name in names:
        if name not in METRICS:
            raise CannotEvaluate(f"there is no metric {name[:40]!r}", fix=f"choose among {', '.join(METRICS)}")
        if not given.get(name, True):
            needs = {"json_schema": "--schema", "regex": "--regex", "pass@1": "--command", "judge": "--judge-url"}
            fix = f"give {needs[name]}" if name in needs else "leave --no-loss out"
            raise CannotEvaluate(f"{name} cannot be measured: nothing was given for it", fix=fix)
    chosen = list(dict.fromkeys(names)) or _suited(wanted, means)
    chosen += [name for name, wished in given.items() if wished and name not in chosen]
    if any(name in ("json_equal", "field_f1") for name in chosen):
        _require_json(wanted)
    return tuple(METRICS[name] for name in chosen)


def _suited(wanted: Sequence[str], means: Means) -> list[str]:
    first = ["pass@1"] if means.command else []
    if Labels.among(wanted).are_labels(len(wanted)):
        return [*first, "accuracy", "exact"]
    values = [reading_json.whole(text) for text in wanted]
    if all(isinstance(value, (dict, list)) for value in values):
        return [*first, "json_equal", "field_f1", "json_valid"]
    if sum(len(text.split()) <= _FEW_WORDS for text in wanted) > len(wanted) / 2:
        return [*first, "exact", "rouge_l"]
    return [*first, "rouge_l", "exact"]


def _require_json(wanted: Sequence[str]) -> None:
    bad = [str(n) for n, text in enumerate(wanted, start=1) if reading_json.whole(text) is reading_json.MISSING]
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise CannotEvaluate(
            f"json_equal and field_f1 need JSON answers; those of examples {', '.join(bad[:5])}{more} are none",
            fix="choose another --metric, such as rouge_l or exact",
        )


def measure_of(metric: Metric, means: Means, labels: Labels) -> Measure:
    """The function behind a metric that reads the answer itself. Raises CannotEvaluate for a bad schema or pattern."""
    match metric.name:
        case "exact":
            return lambda answer, wanted: float(answer.strip() == wanted.strip())
        case "json_equal":
            return _json_equal
        case "field_f1":
            return _field_f1
        case "json_valid":
            return lambda answer, wanted: float(reading_json.whole(answer) is not reading_json.MISSING)
        case "json_schema":
            return _satisfies(means.schema)
        case "accuracy":
            return lambda answer, wanted: float(labels.named_in(answer) == label_of(wanted))
        case "regex":
            return _found(means.pattern or "")
        case "rouge_l":
            return rouge_l
    raise AssertionError(f"{metric.name} is measured elsewhere")


def rouge_l(answer: str, wanted: str) -> float:
    """F1 of the longest common subsequence of words, as Google's rouge_score has it, for any script and unstemmed."""
    from rapidfuzz.distance import LCSseq

    ours, theirs = _words(answer), _words(wanted)
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * float(LCSseq.similarity(ours, theirs)) / (len(ours) + len(theirs))


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _json_equal(answer: str, wanted: str) -> float:
    value = reading_json.whole(wanted)
    return float(reading_json.same(reading_json.first(answer, value), value))


def _field_f1(answer: str, wanted: str) -> float:
    value = reading_json.whole(wanted)
    return reading_json.field_f1(reading_json.first(answer, value), value)


def _satisfies(schema: Mapping[str, Any] | bool | None) -> Measure:
    import jsonschema
    import referencing

    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise CannotEvaluate(f"the JSON schema is none: {str(error.message)[:200]}") from error
    # An empty registry: a reference to another document is an error, never a download.
    validator = kind(schema, registry=referencing.Registry())

    def measure(answer: str, wanted: str) -> float:
        value = reading_json.whole(answer)
        try:
            return float(value is not reading_json.MISSING and validator.is_valid(value))
        except RecursionError:
            return 0.0
        except referencing.exceptions.Unresolvable as error:
            raise CannotEvaluate(
                f"the JSON schema refers to {str(error.ref)[:100]!r}, which it does not hold",
                fix="put it into the schema's own $defs",
            ) from error

    return measure


def _found(pattern: str) -> Measure:
    import regex

    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise CannotEvaluate(f"the pattern {pattern[:80]!r} cannot be read: {error}") from error

    def measure(answer: str, wanted: str) -> float:
        try:
            return float(compiled.search(answer, timeout=_PATTERN_SECONDS) is not None)
        except TimeoutError:
            return 0.0  # an answer that makes the pattern run for ever is not what was wanted

    return measure
