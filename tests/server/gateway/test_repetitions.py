"""What of a schema the engine's compiler would unroll: each different bound once, up to what costs no more."""

from __future__ import annotations

from typing import Any

import pytest

from loradock_server.gateway.bounds import MAX_GRAMMAR_BYTES, MAX_REPETITIONS, require_bounded
from loradock_server.gateway.errors import BadRequest
from loradock_server.gateway.repetitions import MOST, repetitions


def fields(*lengths: int) -> dict[str, Any]:
    properties = {f"f{i}": {"type": "string", "maxLength": length} for i, length in enumerate(lengths)}
    return {"type": "object", "properties": properties}


@pytest.mark.parametrize(
    ("said", "count"),
    [
        ({"type": "string"}, 0),
        ({"type": "string", "maxLength": 40}, 40),
        ({"type": "string", "minLength": 10, "maxLength": 40}, 40),
        ({"type": "string", "minLength": 10**30}, MOST),
        (fields(100, 100, 100, 30), 130),
        (fields(1000, 2000), 2 * MOST),
        ([{"anyOf": [{"maxLength": 5}, {"items": {"maxLength": 6}}]}], 11),
        ({"pattern": "^[a-z]{1,300}x{2}y{7,}$"}, 309),
        ({"regex": "((a{1,50}){1,50}){1,9999}"}, 50 + 50 + MOST),
        ({"patternProperties": {"^a{1,20}$": {}}}, 20),
        ({"structured": {"grammar": "root ::= x { 3 , 40 }"}}, 40),
        # what bounds nothing, or is for the engine to refuse
        ({"maxLength": "many", "minLength": None, "pattern": 7, "regex": ["a{9}"], "patternProperties": []}, 0),
        ({"maxLength": -5, "description": "{500}"}, 0),
        ({"maxLength": float("nan"), "minLength": float("inf")}, MOST),
        ({"properties": {"maxLength": {"type": "integer"}, "pattern": {"type": "string"}}}, 0),
        (["maxLength", {"pattern": "{}{,}{a}"}], 0),
    ],
)
def test_each_different_bound_counts_once(said: Any, count: int) -> None:
    assert repetitions(said) == count


def of_schema(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (of_schema(fields(*range(1000, 1017))), "response_format"),
        ({"text": {"format": {"schema": fields(*range(1, 200))}}}, "text"),
        ({"structured_outputs": {"regex": "|".join(["a{1,999}"] * 17)}}, "structured_outputs"),
        ({"tools": [{"function": {"parameters": fields(*range(1000, 1017))}}]}, "tools"),
    ],
)
def test_too_much_is_refused_with_value_limit_and_way_out(body: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest, match=f"sum up to [0-9]+, .*may have {MAX_REPETITIONS}: give") as raised:
        require_bounded("chat", body, 100)
    assert raised.value.param == param


def test_schemas_of_every_day_go_through() -> None:
    lengths = (20, 32, 40, 50, 64, 80, 100, 120, 128, 200, 250, 255, 256, 280, 500, 512, 1000, 1024, 2000, 4096, 10_000)
    assert repetitions(fields(*lengths)) < MAX_REPETITIONS * 0.7
    require_bounded("chat", of_schema(fields(*lengths * 20)), 100)


def test_a_large_schema_is_counted_in_no_time() -> None:
    """Up to the limit on its bytes; and what is nested deeply needs no deep stack."""
    deep: Any = {}
    for _ in range(10_000):
        deep = {"items": deep, "maxLength": 1}
    assert repetitions(deep) == 1
    assert repetitions({"pattern": "{" * MAX_GRAMMAR_BYTES}) == 0
    assert repetitions({"pattern": "{" + "9" * MAX_GRAMMAR_BYTES}) == 0
    assert repetitions({"pattern": "{ " * MAX_GRAMMAR_BYTES + " " * MAX_GRAMMAR_BYTES}) == 0
