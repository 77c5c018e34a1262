"""Limits as clients meet them: the headers of every answer, the errors, the official client's own retry."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.fakes.engine import Reply
from tests.server.gateway.conftest import Gateway, Start, eventually

ASK: Any = [{"role": "user", "content": "Hi"}]
TOLD = [f"x-ratelimit-{part}-{kind}" for kind in ("requests", "tokens") for part in ("limit", "remaining", "reset")]


def key_with(gateway: Gateway, **limits: int) -> str:
    answer = gateway.http.post("/admin/keys", json={"name": "my-app", "scopes": ["inference"], "limits": limits})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["secret"])


def limit(gateway: Gateway, name: str, **limits: int | None) -> None:
    assert gateway.http.patch(f"/admin/adapters/{name}", json=limits).status_code == 200


def ask(gateway: Gateway, key: str, model: str = "tiny", **more: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    body = {"model": model, "prompt": "x", "max_tokens": 20, **more}
    return gateway.http.post("/v1/completions", json=body, headers=headers)


def told(answer: httpx.Response) -> dict[str, str]:
    return {name: answer.headers[name] for name in answer.headers if name.startswith("x-ratelimit")}


def left(answer: httpx.Response, kind: str = "tokens") -> int:
    return int(answer.headers[f"x-ratelimit-remaining-{kind}"])


def test_without_limits_no_answer_says_anything_of_them(gateway: Gateway) -> None:
    assert told(ask(gateway, key_with(gateway))) == {}


def test_every_answer_says_what_is_left_whatever_it_is(gateway: Gateway) -> None:
    gateway.register("poet")
    # One drains in ten seconds: on a slow machine too none does here.
    key = key_with(gateway, requests_per_minute=6, tokens_per_minute=100_000)
    gateway.engine.enqueue(Reply(), Reply(), Reply(status=400, error={"message": "no", "code": 400}))
    answers = [
        ask(gateway, key),
        ask(gateway, key, "poet", stream=True),
        ask(gateway, key, "poet"),
        ask(gateway, key, "nobody"),
        ask(gateway, key, model=5),  # type: ignore[arg-type]
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 400, 404, 400]
    for answer in answers:
        assert sorted(told(answer)) == sorted(TOLD), answer.request
        assert answer.headers["x-ratelimit-limit-requests"] == "6"
        assert answer.headers["x-ratelimit-limit-tokens"] == "100000"
    assert [left(answer, "requests") for answer in answers] == [5, 4, 3, 3, 3], "a mistake costs nothing"
    gateway.engine.die()
    down = ask(gateway, key)
    assert (down.status_code, left(down, "requests")) == (503, 2)
    assert told(httpx.post(f"{gateway.url}/v1/completions", json={}, trust_env=False, timeout=60)) == {}


def test_over_the_limit_the_sdk_sees_a_rate_limit_error_in_openais_shape(gateway: Gateway) -> None:
    gateway.register("poet")
    limit(gateway, "poet", requests_per_minute=1)
    client = gateway.openai(key_with(gateway, requests_per_minute=1000))
    client.completions.create(model="poet", prompt="x")
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model="poet@1", messages=ASK)
    error = caught.value
    assert (error.status_code, error.code, error.type, error.param) == (
        429,
        "rate_limit_exceeded",
        "rate_limit_error",
        None,
    )
    assert "model 'poet' is over its limit of requests per minute: limit 1, used 1, this request 1" in error.message
    assert isinstance(error.body, dict)
    about = error.body["limit"]
    assert {**about, "wait_seconds": 0} == {
        "of": "adapter",
        "limit": "requests_per_minute",
        "value": 1,
        "used": 1,
        "asked": 1,
        "wait_seconds": 0,
    }
    headers = error.response.headers
    assert 20 < about["wait_seconds"] <= int(headers["retry-after"]) <= 60
    assert abs(int(headers["retry-after-ms"]) - 1000 * about["wait_seconds"]) <= 2
    assert headers["x-ratelimit-limit-requests"] == "1"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert headers["x-loradock-adapter"] == "poet@1"
    assert len(gateway.engine.history) == 1, "the engine is not asked"
    client.completions.create(model="tiny", prompt="x")
    assert gateway.metric("loradock_rate_limited_total", adapter="poet", limit="adapter_requests_per_minute") == 1


def test_the_anthropic_route_words_it_its_own_way(gateway: Gateway) -> None:
    key = key_with(gateway, requests_per_minute=1)
    ask(gateway, key)
    body = {"model": "tiny", "max_tokens": 5, "messages": ASK}
    answer = gateway.http.post("/v1/messages", json=body, headers={"authorization": f"Bearer {key}"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (429, "rate_limit_error")
    assert int(answer.headers["retry-after"]) > 20
    assert answer.headers["anthropic-ratelimit-requests-limit"] == "1"
    assert answer.headers["anthropic-ratelimit-requests-remaining"] == "0"
    assert datetime.fromisoformat(answer.headers["anthropic-ratelimit-requests-reset"]) > datetime.now(UTC)


def test_an_adapters_limits_are_of_all_callers_together(gateway: Gateway) -> None:
    gateway.register("poet")
    limit(gateway, "poet", requests_per_minute=2)
    one, two = key_with(gateway), key_with(gateway)
    assert [ask(gateway, key, "poet").status_code for key in (one, two, one, two)] == [200, 200, 429, 429]
    assert ask(gateway, one).status_code == 200
    limit(gateway, "poet", requests_per_minute=None)
    assert ask(gateway, one, "poet").status_code == 200, "in force with the next request"


def test_the_base_models_limits_are_settings(start: Start) -> None:
    with start(base_requests_per_minute=1) as gateway:
        gateway.register("poet")
        assert ask(gateway, gateway.key).status_code == 200
        refused = ask(gateway, gateway.key)
        assert (refused.status_code, refused.json()["error"]["limit"]["of"]) == (429, "adapter")
        assert "model 'tiny'" in refused.json()["error"]["message"]
        assert ask(gateway, gateway.key, "poet").status_code == 200
        assert gateway.metric("loradock_rate_limited_total", adapter="base") == 1


def test_tokens_are_put_right_by_the_engines_count_also_for_a_stream_that_was_left(gateway: Gateway) -> None:
    key = key_with(gateway, tokens_per_day=10_000)
    gateway.engine.enqueue(Reply(input_tokens=40, tokens=("a", "b")))
    first = ask(gateway, key, max_tokens=300)
    assert 10_000 - left(first, "tokens-day") > 300
    eventually(lambda: left(ask(gateway, key, "nobody"), "tokens-day") == 10_000 - 42)

    gate = gateway.engine.gate()
    gateway.engine.enqueue(Reply(input_tokens=40, tokens=("a", "b", "c", "d"), gate=gate, gate_at=3))
    client = gateway.openai(key)
    stream = client.completions.create(model="tiny", prompt="x", max_tokens=300, stream=True)
    for _ in range(3):
        next(stream)
    assert left(ask(gateway, key, "nobody"), "tokens-day") < 10_000 - 42 - 300
    stream.close()
    eventually(lambda: left(ask(gateway, key, "nobody"), "tokens-day") == 10_000 - 42 - 43)


def test_what_no_engine_answered_costs_no_tokens(start: Start) -> None:
    with start() as gateway:
        key = key_with(gateway, tokens_per_day=1000)
        gateway.engine.die()
        assert ask(gateway, key).status_code == 503
        assert left(ask(gateway, key, "nobody"), "tokens-day") == 1000


def test_the_budget_of_the_day_outlives_a_restart(start: Start) -> None:
    with start() as gateway:
        key = key_with(gateway, tokens_per_day=30)
        gateway.engine.enqueue(Reply(input_tokens=25, tokens=("a", "b", "c", "d", "e", "f")))
        assert ask(gateway, key, max_tokens=5).status_code == 200
        eventually(lambda: left(ask(gateway, key, "nobody"), "tokens-day") == 0)
    with start() as again:
        client = again.openai(key)
        with pytest.raises(openai.RateLimitError) as caught:
            client.completions.create(model="tiny", prompt="x")
        error = caught.value
        assert (error.code, error.type) == ("insufficient_quota", "insufficient_quota")
        assert "has used 31 tokens today, its budget is 30 a day (tokens_per_day)" in error.message
        until_midnight = 86_400 - time.time() % 86_400
        assert abs(int(error.response.headers["retry-after"]) - until_midnight) < 30
        assert error.response.headers["x-ratelimit-remaining-tokens-day"] == "0"


def test_the_official_client_waits_as_it_is_told_and_gets_its_answer(gateway: Gateway) -> None:
    key = key_with(gateway, requests_per_minute=30)
    with OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=1, timeout=60) as client:
        client.completions.create(model="tiny", prompt="x")  # the first one takes its time
        refused = ask(gateway, key)
        # By itself the client would wait half a second and be refused again.
        while refused.status_code == 200 or int(refused.headers["retry-after-ms"]) < 1000:
            refused = ask(gateway, key)
        wait = int(refused.headers["retry-after-ms"]) / 1000
        begun = time.monotonic()
        answer = client.completions.with_raw_response.create(model="tiny", prompt="x")
    assert answer.retries_taken == 1
    assert time.monotonic() - begun > wait - 0.6


def test_the_official_client_does_not_wait_for_tomorrow(gateway: Gateway) -> None:
    key = key_with(gateway, tokens_per_day=1)
    ask(gateway, key)
    before = gateway.metric("loradock_rate_limited_total")
    with (
        OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=5, timeout=60) as client,
        pytest.raises(openai.RateLimitError),
    ):
        client.completions.create(model="tiny", prompt="x")
    assert gateway.metric("loradock_rate_limited_total", limit="key_tokens_per_day") == before + 1, "it asked once"


def test_places_of_a_key_are_those_of_its_requests(gateway: Gateway) -> None:
    key = key_with(gateway, max_concurrency=1)
    gate = gateway.engine.gate()
    gateway.engine.enqueue(Reply(gate=gate, gate_at=1))
    stream = gateway.openai(key).completions.create(model="tiny", prompt="x", stream=True)
    next(stream)
    refused = ask(gateway, key)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "key_concurrency")
    assert refused.headers["retry-after"] == "1"
    assert ask(gateway, gateway.key).status_code == 200
    stream.close()
    eventually(lambda: ask(gateway, key).status_code == 200)
