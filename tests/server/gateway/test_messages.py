"""Anthropic's own SDK against the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from tests.fakes.engine import Reply
from tests.server.gateway.conftest import Gateway, eventually

ASK: Any = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def client(gateway: Gateway) -> Iterator[anthropic.Anthropic]:
    with sdk(gateway) as made:
        yield made


def sdk(gateway: Gateway, key: str | None = None) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=gateway.url, api_key=key or gateway.key, max_retries=0, timeout=60)


def ask(client: anthropic.Anthropic, model: str = "tiny", **more: Any) -> Any:
    return client.messages.create(model=model, messages=ASK, max_tokens=5, **more)


def test_a_message_is_answered_under_the_versions_name(gateway: Gateway, client: anthropic.Anthropic) -> None:
    gateway.register("poet")
    raw = client.messages.with_raw_response.create(model="poet", messages=ASK, max_tokens=5)
    answer = raw.parse()
    assert (answer.model, answer.content[0].type, answer.stop_reason) == ("poet@1", "text", "end_turn")
    assert raw.headers["x-loradock-adapter"] == "poet@1"
    assert client.messages.count_tokens(model="poet", messages=ASK).input_tokens == 5


def test_a_key_may_come_in_the_header_that_older_clients_of_anthropics_send(gateway: Gateway) -> None:
    body = {"model": "tiny", "messages": ASK, "max_tokens": 5}
    for key, status in ((gateway.key, 200), ("ld-wrong", 401)):
        headers = {"authorization": "", "x-api-key": key}
        assert gateway.http.post("/v1/messages", json=body, headers=headers).status_code == status


def test_a_stream_of_messages_comes_to_its_end(client: anthropic.Anthropic) -> None:
    with client.messages.stream(model="tiny", messages=ASK, max_tokens=5) as stream:
        assert list(stream.text_stream) == ["Hello", " world"]
        assert stream.get_final_message().usage.output_tokens == 2


def test_an_adapters_settings_hold_for_messages(gateway: Gateway, client: anthropic.Anthropic) -> None:
    gateway.register("poet")
    said = {"system_prompt": "Rhyme.", "max_tokens_cap": 3, "temperature": 0.2, "stop": ["END"], "min_p": 0.1}
    assert gateway.http.patch("/admin/adapters/poet", json=said).is_success
    ask(client, "poet")
    ask(client, "poet", system="Mine.", stop_sequences=["X"], extra_body={"temperature": 1.0})
    client.messages.count_tokens(model="poet", messages=ASK)
    first, own, counted = (seen.body for seen in gateway.engine.history)
    assert {k: first[k] for k in ("system", "max_tokens", "temperature", "stop_sequences")} == {
        "system": "Rhyme.",
        "max_tokens": 3,
        "temperature": 0.2,
        "stop_sequences": ["END"],
    }
    assert "min_p" not in first, "the Messages API has none"
    assert (own["system"], own["temperature"], own["stop_sequences"]) == ("Mine.", 1.0, ["X"])
    assert counted["system"] == "Rhyme."
    assert "max_tokens" not in counted


def test_errors_raise_the_exceptions_of_anthropics_sdk(gateway: Gateway, client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        ask(client, "nobody")
    assert caught.value.body == {
        "type": "error",
        "error": {
            "type": "not_found_error",
            "message": caught.value.body["error"]["message"],  # type: ignore[index]
            "code": "model_not_found",
            "param": "model",
        },
    }
    with pytest.raises(anthropic.AuthenticationError), sdk(gateway, "ld-wrong") as stranger:
        ask(stranger)
    busy = {"error": {"message": "busy", "type": "x", "param": None, "code": "adapter_queue_full"}}
    gateway.engine.enqueue(Reply(status=429, error=busy), Reply(status=503, error=busy), Reply(status=400, error=busy))
    for kind in (anthropic.RateLimitError, anthropic.InternalServerError, anthropic.BadRequestError):
        with pytest.raises(kind, match="busy"):
            ask(client)


def test_anthropics_own_error_of_the_engine_is_understood(gateway: Gateway, client: anthropic.Anthropic) -> None:
    fault = {"type": "error", "error": {"type": "BadRequestError", "message": "too long"}}
    gateway.engine.enqueue(Reply(status=400, error=fault))
    with pytest.raises(anthropic.BadRequestError) as caught:
        ask(client)
    assert caught.value.body["error"]["type"] == "invalid_request_error"  # type: ignore[index]


def test_a_stream_that_breaks_off_ends_with_anthropics_error_event(
    gateway: Gateway, client: anthropic.Anthropic
) -> None:
    for reply in (Reply(tokens=("a", "b"), break_off_at=1), Reply(tokens=("a", "b"), die_at=1)):
        gateway.engine.enqueue(reply)
        seen: list[str] = []
        with pytest.raises(anthropic.APIStatusError) as caught:
            seen.extend(event.type for event in ask(client, stream=True))
        assert caught.value.body["error"]["code"] == "engine_unavailable"  # type: ignore[index]


def test_a_gateway_that_drains_says_so_in_anthropics_words(gateway: Gateway) -> None:
    gate = gateway.engine.gate()
    gateway.engine.enqueue(Reply(gate=gate, gate_at=1))
    stream = iter(gateway.openai().completions.create(model="tiny", prompt="x", stream=True))
    next(stream)
    gateway.stop()
    eventually(lambda: gateway.http.get("/readyz").status_code == 503)  # it hears of the stop in a turn of its own
    answer = gateway.http.post("/v1/messages", json={"model": "tiny", "messages": ASK, "max_tokens": 5})
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "overloaded_error")
    gate.open()
    list(stream)
    gateway.wait_stopped()


def test_a_user_of_a_split_stays_on_one_version(gateway: Gateway, client: anthropic.Anthropic) -> None:
    gateway.register("poet")
    gateway.register("poet", alpha=8)
    split = {"split": {"1": 1, "2": 1}}
    assert gateway.http.put("/admin/adapters/poet/aliases/live", json=split).is_success
    met = {
        user: {ask(client, "poet", metadata={"user_id": user}).model for _ in range(3)} for user in map(str, range(8))
    }
    assert all(len(models) == 1 for models in met.values())
    assert len(set.union(*met.values())) == 2
