"""Anthropic's SDK and the real engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from tests.e2e.sdk.asks import ID, MODEL, SWITCH
from tests.e2e.server import Server

pytestmark = pytest.mark.e2e

ASK: Any = [{"role": "user", "content": "Turn off the lamp please"}]
GREEDY = {"temperature": 0}


@pytest.fixture
def client(server: Server) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key=server.key, max_retries=0) as made:
        yield made


def test_a_message_and_its_stream_say_the_same(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(model=MODEL, messages=ASK, max_tokens=16, extra_body=GREEDY)
    (block,) = whole.content
    assert isinstance(block, anthropic.types.TextBlock)
    assert (whole.model, whole.role) == (ID, "assistant")
    with client.messages.stream(model=MODEL, messages=ASK, max_tokens=16, extra_body=GREEDY) as stream:
        assert "".join(stream.text_stream) == block.text
        final = stream.get_final_message()
    assert (final.model, final.stop_reason, final.usage.output_tokens) == (
        ID,
        whole.stop_reason,
        whole.usage.output_tokens,
    )


def test_tokens_are_counted_as_the_message_is_billed(client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(model=MODEL, messages=ASK, system="Be brief.").input_tokens
    usage = client.messages.create(model=MODEL, messages=ASK, system="Be brief.", max_tokens=1).usage
    assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_a_tool_is_called_by_its_schema(client: anthropic.Anthropic) -> None:
    tool: Any = {"name": "switch", "input_schema": SWITCH, "strict": True}
    answer = client.messages.create(
        model=MODEL, messages=ASK, max_tokens=80, tools=[tool], tool_choice={"type": "tool", "name": "switch"}
    )
    (call,) = [block for block in answer.content if block.type == "tool_use"]
    assert answer.stop_reason == "tool_use"
    assert call.name == "switch"
    assert set(call.input) == {"on", "room"}


def test_a_stop_sequence_is_named(client: anthropic.Anthropic) -> None:
    answer = client.messages.create(model=MODEL, messages=ASK, max_tokens=32, stop_sequences=['"'], extra_body=GREEDY)
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", '"')


def test_errors_are_anthropics(server: Server, client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="nobody", messages=ASK, max_tokens=4)
    with pytest.raises(anthropic.BadRequestError, match="maximum context length") as caught:
        client.messages.create(model=MODEL, messages=[{"role": "user", "content": "word " * 3000}], max_tokens=4)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["code"] == "context_length_exceeded"
    with (
        anthropic.Anthropic(base_url=server.url, api_key="wrong", max_retries=0) as stranger,
        pytest.raises(anthropic.AuthenticationError),
    ):
        stranger.messages.create(model=MODEL, messages=ASK, max_tokens=4)
