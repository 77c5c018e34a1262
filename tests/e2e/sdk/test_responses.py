"""OpenAI's SDK and the real engine: the Responses API."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.e2e.sdk.asks import ID, MODEL, SWITCH, is_switch
from tests.e2e.server import Server

pytestmark = pytest.mark.e2e


def respond(server: Server, **more: Any) -> Any:
    options = {"model": MODEL, "input": "Turn off the lamp please", "max_output_tokens": 16, "temperature": 0, **more}
    return server.client().responses.create(**options)


def test_a_stream_of_events_ends_with_the_whole_response(server: Server) -> None:
    whole = respond(server)
    assert whole.model == ID
    events = list(respond(server, stream=True))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] in ("response.completed", "response.incomplete")
    assert [event.sequence_number for event in events] == [*range(len(events))]
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text == events[-1].response.output_text
    assert events[-1].response.model == ID
    assert events[-1].response.usage.output_tokens == whole.usage.output_tokens


def test_a_conversation_goes_on_by_sending_it_again(server: Server) -> None:
    first = respond(server)
    told: Any = [
        {"role": "user", "content": "Turn off the lamp please"},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "And on again"},
    ]
    assert respond(server, input=told, instructions="Be brief.").output_text


def test_functions_are_called_and_text_fits_a_schema(server: Server) -> None:
    tool = {"type": "function", "name": "switch", "parameters": SWITCH, "strict": True}
    answer = respond(server, tools=[tool], tool_choice={"type": "function", "name": "switch"}, max_output_tokens=80)
    (call,) = [item for item in answer.output if item.type == "function_call"]
    assert call.name == "switch"
    assert is_switch(call.arguments)
    text = {"format": {"type": "json_schema", "name": "switch", "schema": SWITCH, "strict": True}}
    assert is_switch(respond(server, text=text, max_output_tokens=60).output_text)


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"store": True}, "store"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
    ],
)
def test_what_needs_a_memory_or_a_tool_of_ours_is_refused(server: Server, more: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        respond(server, **more)
    assert (caught.value.param, caught.value.code) == (param, "unsupported_parameter")


def test_no_response_can_be_asked_for_again(server: Server) -> None:
    client = server.client()
    id = respond(server).id
    for again in (client.responses.retrieve, client.responses.cancel, client.responses.delete):
        with pytest.raises(openai.NotFoundError, match="keeps no responses"):
            again(id)


def test_too_long_an_input_is_named(server: Server) -> None:
    for stream in (True, False):
        with pytest.raises(openai.BadRequestError) as caught:
            respond(server, input="word " * 3000, stream=stream)
        assert (caught.value.param, caught.value.code) == ("input", "context_length_exceeded")
    assert json.loads(caught.value.response.text)["error"]["type"] == "invalid_request_error"
