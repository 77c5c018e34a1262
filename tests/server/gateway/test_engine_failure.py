"""The engine dies, stalls, restarts or refuses: what clients and probes see of it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from loradock_server.gateway import engine_line, watch
from tests.fakes.engine import Reply
from tests.server.gateway.conftest import Gateway, Start, eventually

ASK: Any = [{"role": "user", "content": "Hi"}]
BODY = {"model": "tiny", "prompt": "x"}


def test_without_an_engine_requests_are_503_with_retry_after(start: Start) -> None:
    with start(engine_up=False) as gateway:
        with pytest.raises(openai.InternalServerError) as caught:
            gateway.openai().chat.completions.create(model="tiny", messages=ASK)
        assert caught.value.status_code == 503
        assert caught.value.code == "engine_unavailable"
        assert int(caught.value.response.headers["retry-after"]) >= 1


def test_without_an_engine_adapters_can_be_registered_and_models_listed(start: Start) -> None:
    with start(engine_up=False) as gateway:
        gateway.register("poet")
        assert {model.id for model in gateway.openai().models.list()} == {"tiny", "poet"}


def test_an_engine_that_dies_in_the_middle_of_a_stream_ends_it_with_an_api_error(gateway: Gateway) -> None:
    gateway.engine.enqueue(Reply(tokens=("a", "b", "c"), die_at=2))
    stream = iter(gateway.openai().chat.completions.create(model="tiny", messages=ASK, stream=True))
    assert [next(stream).choices[0].delta.content for _ in range(2)] == ["a", "b"]
    started = time.monotonic()
    with pytest.raises(openai.APIError) as caught:
        next(stream)
    assert caught.value.code == "engine_unavailable"
    assert time.monotonic() - started < 50, "it did not wait for a timeout"


def test_the_broken_stream_still_ends_as_every_stream_ends(gateway: Gateway) -> None:
    gateway.engine.enqueue(Reply(tokens=("a", "b"), die_at=1))
    answer = gateway.http.post("/v1/completions", json={**BODY, "stream": True})
    events = answer.text.split("\n\n")
    assert answer.status_code == 200
    assert events[-3].startswith('data: {"error":')
    assert events[-2:] == ["data: [DONE]", ""]


def test_a_stream_that_stops_without_its_end_is_an_error_not_a_short_answer(gateway: Gateway) -> None:
    gateway.engine.enqueue(Reply(tokens=("a", "b"), break_off_at=1))
    with pytest.raises(openai.APIError, match="broke off"):
        list(gateway.openai().chat.completions.create(model="tiny", messages=ASK, stream=True))


def test_an_engine_that_dies_before_it_answers_gives_a_503(gateway: Gateway) -> None:
    gateway.engine.enqueue(Reply(die_at=0))
    answer = gateway.http.post("/v1/completions", json=BODY)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "engine_unavailable"


def test_a_stream_whose_engine_dies_before_the_first_event_is_a_503_too(gateway: Gateway) -> None:
    gateway.engine.enqueue(Reply(die_at=0))
    assert gateway.http.post("/v1/completions", json={**BODY, "stream": True}).status_code == 503


def test_readiness_and_the_engine_metrics_follow_death_and_return(gateway: Gateway) -> None:
    assert gateway.metric("loradock_engine_up") == 1
    gateway.engine.die()
    eventually(lambda: gateway.http.get("/readyz").status_code == 503)
    assert gateway.http.get("/readyz").headers["retry-after"]
    assert gateway.http.get("/healthz").status_code == 200
    assert gateway.metric("loradock_engine_up") == 0
    gateway.engine.revive()
    eventually(lambda: gateway.http.get("/readyz").status_code == 200)
    assert gateway.metric("loradock_engine_up") == 1
    assert gateway.metric("loradock_engine_restarts_total") == 1
    assert gateway.http.post("/v1/completions", json=BODY).status_code == 200


@pytest.fixture
def unasked(start: Start, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    """A gateway that asks its engine only once by itself."""
    monkeypatch.setattr(watch, "POLL_SECONDS", 3600.0)
    with start() as running:
        yield running


def test_a_request_that_finds_no_engine_ends_readiness_at_once(unasked: Gateway) -> None:
    unasked.engine.die()
    assert unasked.http.post("/v1/completions", json=BODY).status_code == 503
    assert unasked.http.get("/readyz").status_code == 503
    assert unasked.metric("loradock_engine_up") == 0


def test_a_stream_that_breaks_off_has_the_engine_asked_at_once(unasked: Gateway) -> None:
    unasked.engine.enqueue(Reply(tokens=("a", "b"), die_at=1))
    assert unasked.http.post("/v1/completions", json={**BODY, "stream": True}).status_code == 200
    eventually(lambda: unasked.http.get("/readyz").status_code == 503)


def test_an_engine_that_lives_on_is_ready_again_as_soon_as_it_says_so(unasked: Gateway) -> None:
    unasked.engine.enqueue(Reply(hang_up_after=0))
    unasked.engine.cut_connections()  # so that the request comes on a new one, and is not sent again
    assert unasked.http.post("/v1/completions", json=BODY).status_code == 503
    eventually(lambda: unasked.http.get("/readyz").status_code == 200)


def test_an_engine_with_another_base_model_answers_nobody(start: Start) -> None:
    with start(engine_up=False) as gateway:
        gateway.engine.base = {"name": "other", "digest": "f" * 64}
        gateway.engine.revive()
        eventually(lambda: "other" in gateway.http.get("/readyz").json().get("reason", ""))
        answer = gateway.http.post("/v1/completions", json=BODY)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")
        assert "--model" in answer.json()["error"]["message"]
        assert gateway.engine.history == []


def test_an_engine_whose_state_is_nonsense_is_not_ready_until_it_talks_sense(gateway: Gateway) -> None:
    gateway.engine.adapters = [{"no": "id"}]
    eventually(lambda: "cannot be read" in gateway.http.get("/readyz").json().get("reason", ""))
    gateway.engine.adapters = []
    eventually(lambda: gateway.http.get("/readyz").status_code == 200)


def test_a_pooled_connection_that_the_engine_had_closed_costs_no_request(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A slow machine may take longer than that over a request that fails at once, and between two of them.
    monkeypatch.setattr(engine_line, "_STALE_SECONDS", 60.0)
    monkeypatch.setattr(engine_line, "KEEP_ALIVE_SECONDS", 60.0)
    gateway.http.post("/v1/completions", json=BODY)  # leaves a connection in the pool
    gateway.engine.enqueue(Reply(hang_up_after=0))
    assert gateway.http.post("/v1/completions", json=BODY).status_code == 200
    assert len(gateway.engine.history) == 3


def test_a_request_that_takes_the_engine_down_with_it_is_not_sent_again(gateway: Gateway) -> None:
    gateway.http.post("/v1/completions", json=BODY)
    gateway.engine.enqueue(Reply(hang_up_after=0.3))
    assert gateway.http.post("/v1/completions", json=BODY).status_code == 503
    assert len(gateway.engine.history) == 2


def test_a_slow_engine_is_a_504(start: Start) -> None:
    with start(request_timeout=0.3) as gateway:
        gate = gateway.engine.gate()
        gateway.engine.enqueue(Reply(gate=gate), Reply(gate=gate, gate_at=1))
        answer = gateway.http.post("/v1/completions", json=BODY)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "engine_timeout")
        assert "0.3 s for a request (LORADOCK_REQUEST_TIMEOUT)" in answer.json()["error"]["message"]
        with pytest.raises(openai.APIError, match="0.3 s for a request"):
            list(gateway.openai().completions.create(model="tiny", prompt="x", stream=True))
        eventually(lambda: len(gateway.engine.aborted) == 2)


def test_a_stream_must_begin_in_time_and_a_whole_answer_need_not(start: Start) -> None:
    with start(first_byte_timeout=0.2) as gateway:
        gate = gateway.engine.gate()
        gateway.engine.enqueue(Reply(gate=gate), Reply(gate=gate))
        answer = gateway.http.post("/v1/completions", json={**BODY, "stream": True})
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "engine_timeout")
        assert "no first event for 0.2 s (LORADOCK_FIRST_BYTE_TIMEOUT)" in answer.json()["error"]["message"]
        eventually(lambda: len(gateway.engine.aborted) == 1)
        threading.Timer(0.5, gate.open).start()
        assert gateway.http.post("/v1/completions", json=BODY).status_code == 200
        assert gateway.http.get("/readyz").status_code == 200


def test_a_stream_that_stops_in_its_middle_ends_with_an_error_in_time(start: Start) -> None:
    with start(chunk_timeout=0.2) as gateway:
        gateway.engine.enqueue(Reply(gate=gateway.engine.gate(), gate_at=1))
        with pytest.raises(openai.APIError) as caught:
            list(gateway.openai().completions.create(model="tiny", prompt="x", stream=True))
        assert caught.value.code == "engine_timeout"
        assert "nothing for 0.2 s (LORADOCK_CHUNK_TIMEOUT)" in str(caught.value)
        eventually(lambda: len(gateway.engine.aborted) == 1)
        assert gateway.http.get("/readyz").status_code == 200


def test_a_body_that_does_not_arrive_is_a_408(start: Start) -> None:
    with start(client_timeout=0.3) as gateway:
        address = (httpx.URL(gateway.url).host, httpx.URL(gateway.url).port or 0)
        for path in ("/v1/completions", "/admin/keys"):
            with socket.create_connection(address, timeout=60) as client:
                head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 50\r\n"
                client.sendall(f"{head}authorization: Bearer {gateway.key}\r\n\r\n{{".encode())
                said = b""
                while part := client.recv(4096):  # until it hangs up
                    said += part
            assert said.startswith(b"HTTP/1.1 408 ")
            assert b"within 0.3 s (LORADOCK_CLIENT_TIMEOUT)" in said
        assert gateway.engine.history == []


def test_a_wrong_engine_token_is_never_shown_as_the_clients_own_401(gateway: Gateway) -> None:
    gateway.engine.token = "another"
    answer = gateway.http.post("/v1/completions", json=BODY)
    assert answer.status_code == 503
    assert "LORADOCK_ENGINE_TOKEN" in answer.json()["error"]["message"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_aborts_the_engines_work(gateway: Gateway, stream: bool) -> None:
    gate = gateway.engine.gate()
    gateway.engine.enqueue(Reply(gate=gate, gate_at=0))
    address = (httpx.URL(gateway.url).host, httpx.URL(gateway.url).port or 0)
    body = json.dumps({**BODY, "stream": stream}).encode()
    with socket.create_connection(address, timeout=60) as client:
        head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
        client.sendall(f"{head}authorization: Bearer {gateway.key}\r\n\r\n".encode() + body)
        gateway.engine.wait_for(gate)
    eventually(lambda: len(gateway.engine.aborted) == 1)
    eventually(lambda: gateway.metric("loradock_requests_total", code="499") == 1)
    assert gateway.metric("loradock_requests_in_flight") == 0


def test_leaving_in_the_middle_of_a_stream_aborts_it(gateway: Gateway) -> None:
    gate = gateway.engine.gate()
    gateway.engine.enqueue(Reply(gate=gate, gate_at=1))
    stream = gateway.openai().completions.create(model="tiny", prompt="x", stream=True)
    assert next(iter(stream)).choices[0].text == "Hello"
    stream.close()
    eventually(lambda: len(gateway.engine.aborted) == 1)
