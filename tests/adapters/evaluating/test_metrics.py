"""Each metric with answers as models give them, and as enemies would."""

from __future__ import annotations

import time

import pytest

from loradock_adapters.evaluating.errors import CannotEvaluate
from loradock_adapters.evaluating.labels import Labels, label_of
from loradock_adapters.evaluating.metrics import METRICS, Means, choose, measure_of, rouge_l

WANTED = '{"intent": "HassTurnOn", "slots": {"area": "hall", "level": 55}}'
SCHEMA = {"type": "object", "required": ["intent"], "properties": {"intent": {"type": "string"}}}


def score(name: str, answer: str, wanted: str = WANTED, means: Means | None = None) -> float:
    return measure_of(METRICS[name], means or Means(), Labels.among(["spam", "ham", "spam or ham"]))(answer, wanted)


@pytest.mark.parametrize(
    ("name", "answer", "expected"),
    [
        ("exact", f"\n{WANTED} ", 1),
        ("exact", WANTED.replace(" ", ""), 0),
        ("json_equal", WANTED.replace(" ", ""), 1),
        ("json_equal", f"Here you are:\n```json\n{WANTED}\n```", 1),
        ("json_equal", '{"slots": {"level": 55.0, "area": "hall"}, "intent": "HassTurnOn"}', 1),
        ("json_equal", WANTED.replace("55", '"55"'), 0),
        ("json_equal", WANTED.replace("55", "true"), 0),
        ("json_equal", "{" * 10_000, 0),
        ("json_equal", '{"a":' * 10_000, 0),
        ("json_equal", '{"intent": NaN}', 0),
        ("json_equal", "", 0),
        ("json_valid", WANTED, 1),
        ("json_valid", f"{WANTED}.", 0),
        ("json_valid", "null", 1),
        ("json_valid", "[" * 100_000, 0),
        ("json_valid", "1" * 5000, 0),
        # Two of three fields agree, of three found.
        ("field_f1", WANTED.replace("55", "56"), 2 / 3),
        ("field_f1", '{"intent": "HassTurnOn"}', 2 * 1 / (1 + 3)),
        ("field_f1", "no", 0),
        ("field_f1", WANTED, 1),
        ("accuracy", "It is HAM, I think, not spam.", 0),
    ],
)
def test_an_answer_has_this_score(name: str, answer: str, expected: float) -> None:
    assert score(name, answer) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "wanted", "expected"),
    [
        # The first: longest common subsequence "police the gunman", 3 of 4 and 3 of 4 words.
        ("police kill the gunman", "police ended the gunman", 0.75),
        ("the gunman kill police", "police killed the gunman", 0.5),
        ("Return the sum.", '"""Return the sum."""', 1.0),
        ("", "a", 0.0),
        ("?!", "…", 1.0),
        ("größe der tür", "die größe der tür", 6 / 7),
    ],
)
def test_rouge_l_is_f1_of_the_longest_common_subsequence(answer: str, wanted: str, expected: float) -> None:
    assert rouge_l(answer, wanted) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "wanted", "right"),
    [
        ("Spam", "spam", True),
        ('{"label": "ham"}', '{"label": "ham"}', True),
        ("spamming is not ham", "ham", True),  # whole words only
        ("spam or ham", "spam or ham", True),  # the longest label at a place
        ("neither", "ham", False),
    ],
)
def test_the_label_that_is_named_first_counts(answer: str, wanted: str, right: bool) -> None:
    assert score("accuracy", answer, wanted) == right


def test_a_label_is_a_text_or_the_only_field_of_an_object() -> None:
    assert label_of(' {"label": "spam"} ') == "spam"
    assert label_of('{"label": "spam", "why": "x"}') == '{"label": "spam", "why": "x"}'
    assert label_of("spam\n") == "spam"


def test_a_schema_is_asked_of_the_whole_answer() -> None:
    means = Means(schema=SCHEMA)
    assert score("json_schema", WANTED, means=means) == 1
    assert score("json_schema", '{"intent": 3}', means=means) == 0
    assert score("json_schema", f"Sure: {WANTED}", means=means) == 0


def test_a_schema_that_points_elsewhere_is_never_fetched() -> None:
    with pytest.raises(CannotEvaluate, match="which it does not hold"):
        score("json_schema", "{}", means=Means(schema={"$ref": "http://127.0.0.1:9/schema.json"}))


@pytest.mark.parametrize(
    ("name", "means", "match"),
    [
        ("json_schema", Means(schema={"type": "nothing"}), "schema is none"),
        ("regex", Means(pattern="("), "cannot be read"),
    ],
)
def test_a_bad_schema_or_pattern_is_said_at_once(name: str, means: Means, match: str) -> None:
    with pytest.raises(CannotEvaluate, match=match):
        measure_of(METRICS[name], means, Labels(()))


def test_an_answer_cannot_make_a_pattern_run_for_ever() -> None:
    begun = time.monotonic()
    assert score("regex", "a" * 5000 + "!", means=Means(pattern="^(a|aa)+$")) == 0
    assert score("regex", "room 55", means=Means(pattern=r"\b\d+$")) == 1
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize(
    ("wanted", "first"),
    [
        ([WANTED, '{"intent": "x"}'] * 10, "json_equal"),
        (["spam", "ham"] * 20, "accuracy"),
        (['{"label": "spam"}', '{"label": "ham"}'] * 20, "accuracy"),
        ([str(n) for n in range(40)], "exact"),
        ([f"This is sentence number {n}." for n in range(40)], "rouge_l"),
    ],
)
def test_the_deciding_metric_follows_the_wanted_answers(wanted: list[str], first: str) -> None:
    chosen = choose((), Means(), wanted)
    assert chosen[0].name == first
    assert chosen[-1].name == "loss"
    assert choose((), Means(command=True), wanted)[0].name == "pass@1"


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (["bleu"], "no metric 'bleu'"),
        (["judge"], "nothing was given"),
        (["json_schema"], "nothing was given"),
        (["field_f1"], "examples 2 are none"),
    ],
)
def test_a_metric_that_cannot_be_measured_is_refused(names: list[str], match: str) -> None:
    with pytest.raises(CannotEvaluate, match=match):
        choose(names, Means(), [WANTED, "words"])


def test_what_was_given_for_a_metric_is_measured_without_naming_it() -> None:
    chosen = choose(["exact"], Means(schema=SCHEMA, pattern="x", loss=False), [WANTED])
    assert [metric.name for metric in chosen] == ["exact", "json_schema", "regex"]
