"""Stopping: say so, finish what runs, turn the rest away, and be gone in time."""

from __future__ import annotations

import socket

import httpx
import openai
import pytest

from loradock_server.gateway import server
from tests.fakes.engine import Reply
from tests.server.gateway.conftest import Gateway, Start, eventually

BODY = {"model": "tiny", "prompt": "x"}


@pytest.fixture
def unhurried(start: Start, monkeypatch: pytest.MonkeyPatch) -> Start:
    """One that waited in vain for anything would wait longer than the test does."""
    monkeypatch.setattr(server, "_CLOSE_SECONDS", 300)
    return start


def test_running_requests_finish_while_new_ones_are_turned_away(gateway: Gateway) -> None:
    gate = gateway.engine.gate()
    gateway.engine.enqueue(Reply(gate=gate, gate_at=1))
    stream = iter(gateway.openai().completions.create(model="tiny", prompt="x", stream=True))
    next(stream)
    gateway.stop()
    eventually(lambda: gateway.http.get("/readyz").status_code == 503)  # it hears of the stop in a turn of its own
    assert gateway.http.get("/readyz").json()["reason"] == "shutting down"
    turned_away = gateway.http.post("/v1/completions", json=BODY)
    assert (turned_away.status_code, turned_away.json()["error"]["code"]) == (503, "shutting_down")
    assert turned_away.headers["retry-after"]
    gate.open()
    assert "".join(chunk.choices[0].text for chunk in stream) == " world"
    gateway.wait_stopped()
    with pytest.raises(httpx.ConnectError), httpx.Client(trust_env=False, timeout=60) as client:
        client.get(f"{gateway.url}/healthz")


def test_what_still_runs_after_the_drain_timeout_ends_with_an_error(unhurried: Start) -> None:
    with unhurried(drain_timeout=0.3) as gateway:
        gateway.engine.enqueue(Reply(tokens=("a", "b"), gate=gateway.engine.gate(), gate_at=1))
        stream = iter(gateway.openai().completions.create(model="tiny", prompt="x", stream=True))
        next(stream)
        gateway.stop()
        with pytest.raises(openai.APIError) as caught:
            next(stream)
        assert caught.value.code == "shutting_down"
        gateway.wait_stopped()
        (client,) = gateway.spans(named="text_completion")
        assert (client.attributes or {})["gen_ai.usage.output_tokens"] == 1


def test_an_idle_gateway_stops_at_once_and_its_last_tokens_are_counted(unhurried: Start) -> None:
    with unhurried(drain_timeout=300) as gateway:
        gateway.http.post("/v1/completions", json=BODY)
        gateway.stop()
        gateway.wait_stopped()
        (client,) = gateway.spans(named="text_completion")
        assert (client.attributes or {})["gen_ai.usage.output_tokens"] == 2


def test_a_taken_port_is_an_error_before_anything_is_served(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use"), start(port=port):
            pass
