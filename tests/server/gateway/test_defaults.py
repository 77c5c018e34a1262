"""An adapter's settings in the bodies of requests: defaults fill gaps, a cap bounds, a client's own word stays."""

from __future__ import annotations

from typing import Any

import pytest

from loradock_adapters.adapter_settings import NOTHING_SAID
from loradock_server.gateway.defaults import apply_settings
from loradock_server.gateway.errors import BadRequest

USER = {"role": "user", "content": "hi"}


def applied(said: dict[str, Any], operation: str, **body: Any) -> dict[str, Any]:
    apply_settings(NOTHING_SAID.patched(said), operation, body)
    return body


@pytest.mark.parametrize("operation", ["chat", "text_completion", "responses"])
def test_defaults_fill_what_the_request_left_out_and_nothing_else(operation: str) -> None:
    said = {"temperature": 0.1, "top_p": 0.5, "top_k": 3, "seed": 7, "stop": ["END"], "repetition_penalty": 1.1}
    assert applied(said, operation) == said
    own = {"temperature": 0, "top_p": 1.0, "top_k": 0, "seed": 0, "stop": [], "repetition_penalty": 1.0}
    assert applied(said, operation, **own) == own, "0 and [] are something said"
    assert applied(said, operation, temperature=None, stop=None) == said, "null is left out"
    assert applied({}, operation, temperature=1.5) == {"temperature": 1.5}


def test_a_system_prompt_goes_in_front_of_a_conversation_that_has_none() -> None:
    said = {"system_prompt": "Be brief."}
    system = {"role": "system", "content": "Be brief."}
    assert applied(said, "chat", messages=[USER])["messages"] == [system, USER]
    for role in ("system", "developer"):
        own = [USER, {"role": role, "content": "Be long."}]
        assert applied(said, "chat", messages=own)["messages"] == own
    assert applied(said, "responses", input="hi") == {"input": "hi", "instructions": "Be brief."}
    assert applied(said, "responses", input=[USER])["instructions"] == "Be brief."
    assert applied(said, "responses", input="hi", instructions="Mine.")["instructions"] == "Mine."
    assert "instructions" not in applied(said, "responses", input=[{"role": "developer", "content": "x"}])
    assert applied(said, "text_completion", prompt="hi") == {"prompt": "hi"}


def test_tokens_are_counted_with_the_system_prompt_that_the_model_will_read() -> None:
    said = {"system_prompt": "Be brief.", "temperature": 0.1, "stop": ["x"], "max_tokens_cap": 3}
    system = {"role": "system", "content": "Be brief."}
    assert applied(said, "tokenize", messages=[USER]) == {"messages": [system, USER]}
    assert applied(said, "tokenize", prompt="hi") == {"prompt": "hi"}
    assert applied(said, "detokenize", tokens=[1]) == {"tokens": [1]}
    for operation in ("messages", "count_tokens"):
        assert applied(said, operation, messages=[USER])["system"] == "Be brief."
        assert applied(said, operation, messages=[USER], system="Mine.")["system"] == "Mine."
        assert "system" not in applied(said, operation, messages=[{"role": "system", "content": "Mine."}, USER])
    assert set(applied(said, "count_tokens", messages=[USER])) == {"messages", "system"}


def test_messages_are_capped_and_get_what_their_api_has_a_word_for() -> None:
    said = {"temperature": 0.1, "top_k": 4, "seed": 7, "stop": ["END"], "max_tokens_cap": 10}
    assert applied(said, "messages", max_tokens=50) == {
        "max_tokens": 10,
        "temperature": 0.1,
        "top_k": 4,
        "stop_sequences": ["END"],
    }
    assert "max_tokens" not in applied(said, "messages"), "the engine says that it is missing"


@pytest.mark.parametrize("messages", [None, "hi", {"role": "user"}, 3])
def test_messages_that_are_none_are_left_for_the_engine_to_refuse(messages: Any) -> None:
    assert applied({"system_prompt": "x"}, "chat", messages=messages) == {"messages": messages}
    assert applied({"system_prompt": "x"}, "chat") == {}


@pytest.mark.parametrize(
    ("operation", "field"),
    [
        ("chat", "max_completion_tokens"),
        ("chat", "max_tokens"),
        ("text_completion", "max_tokens"),
        ("responses", "max_output_tokens"),
    ],
)
def test_a_length_above_the_cap_becomes_the_cap_and_one_below_stays(operation: str, field: str) -> None:
    assert applied({"max_tokens_cap": 10}, operation, **{field: 11}) == {field: 10}
    assert applied({"max_tokens_cap": 10}, operation, **{field: 9}) == {field: 9}
    wrong: tuple[Any, ...] = ("5000", 5000.0, True, [5000], {})
    for value in wrong:
        with pytest.raises(BadRequest, match="whole number") as raised:
            applied({"max_tokens_cap": 10}, operation, **{field: value})
        assert raised.value.param == field
    assert applied({}, operation, **{field: "5000"}) == {field: "5000"}


def test_who_asks_for_no_length_gets_the_cap_or_vllms_own_sixteen_of_a_completion() -> None:
    assert applied({"max_tokens_cap": 10}, "chat", max_tokens=None) == {"max_tokens": None, "max_completion_tokens": 10}
    assert applied({"max_tokens_cap": 10}, "responses") == {"max_output_tokens": 10}
    assert applied({"max_tokens_cap": 10}, "text_completion") == {"max_tokens": 10}
    assert applied({"max_tokens_cap": 16}, "text_completion") == {}
    both = applied({"max_tokens_cap": 10}, "chat", max_tokens=50, max_completion_tokens=5)
    assert both == {"max_tokens": 10, "max_completion_tokens": 5}


def test_embeddings_are_left_alone() -> None:
    said = {"temperature": 1, "stop": ["x"], "max_tokens_cap": 3, "system_prompt": "x"}
    assert applied(said, "embeddings", input="x") == {"input": "x"}
