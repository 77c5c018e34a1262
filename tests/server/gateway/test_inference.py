"""What a client of the OpenAI SDK gets, from the running gateway."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.fakes.engine import Reply
from tests.server.gateway.conftest import Gateway, Start, eventually

ASK: Any = [{"role": "user", "content": "Hi"}]


def test_an_adapter_answers_under_its_versioned_name(gateway: Gateway) -> None:
    digest = gateway.register("poet")["digest"]
    raw = gateway.openai().chat.completions.with_raw_response.create(model="poet", messages=ASK)
    answer = raw.parse()
    assert answer.choices[0].message.content == "Hello world"
    assert answer.model == "poet@1"
    assert raw.headers["x-loradock-adapter"] == "poet@1"
    assert raw.headers["x-loradock-adapter-digest"] == digest
    (seen,) = gateway.engine.history
    assert (seen.body["model"], seen.headers["x-loradock-adapter"]) == ("poet@1", "poet@1")
    assert seen.headers["x-loradock-adapter-digest"] == digest


def test_the_base_model_answers_under_its_own_name_without_adapter_headers(gateway: Gateway) -> None:
    raw = gateway.openai().chat.completions.with_raw_response.create(model="tiny", messages=ASK)
    assert raw.parse().model == "tiny"
    assert "x-loradock-adapter" not in raw.headers
    assert "x-loradock-adapter" not in gateway.engine.history[0].headers


def test_a_stream_arrives_token_by_token_and_shows_usage_only_when_asked(gateway: Gateway) -> None:
    gateway.register("poet")
    client = gateway.openai()
    plain = list(client.chat.completions.create(model="poet", messages=ASK, stream=True))
    asked = list(
        client.chat.completions.create(model="poet", messages=ASK, stream=True, stream_options={"include_usage": True})
    )
    assert [chunk.choices[0].delta.content for chunk in plain] == ["Hello", " world", None]
    assert {chunk.model for chunk in plain} == {"poet@1"}
    assert all(chunk.usage is None for chunk in plain)
    assert asked[-1].choices == []
    assert asked[-1].usage is not None
    assert asked[-1].usage.completion_tokens == 2


def test_the_first_token_reaches_the_client_before_the_second_exists(gateway: Gateway) -> None:
    gate = gateway.engine.gate()
    gateway.engine.enqueue(Reply(gate=gate, gate_at=1))
    stream = iter(gateway.openai().chat.completions.create(model="tiny", messages=ASK, stream=True))
    assert next(stream).choices[0].delta.content == "Hello"
    gate.open()
    assert next(stream).choices[0].delta.content == " world"
    assert next(stream).choices[0].finish_reason == "stop"


def test_completions_work_both_ways(gateway: Gateway) -> None:
    client = gateway.openai()
    assert client.completions.create(model="tiny", prompt="Once").choices[0].text == "Hello world"
    chunks = client.completions.create(model="tiny", prompt="Once", stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "Hello world"


def test_only_model_and_cache_salt_of_the_body_are_changed(gateway: Gateway) -> None:
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Grüße \ud83d\ude00 \0"}],
        "temperature": 0.1,
        "unknown": {"deep": [1, None, 1e30]},
        "stream_options": None,
    }
    answer = gateway.http.post(
        "/v1/chat/completions", content=json.dumps(body), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 200
    sent = gateway.engine.history[0].body
    assert sent.pop("cache_salt")
    assert sent == json.loads(json.dumps(body))


def test_two_keys_never_share_a_prefix_cache_and_one_key_always_does(gateway: Gateway) -> None:
    other = gateway.http.post("/admin/keys", json={"name": "other", "scopes": ["infer"]}).json()["secret"]
    for key in (gateway.key, gateway.key, other):
        gateway.openai(key).completions.create(model="tiny", prompt="x")
    first, again, others = (seen.body["cache_salt"] for seen in gateway.engine.history)
    assert first == again != others


def test_a_client_may_divide_its_own_cache_but_not_choose_anothers(gateway: Gateway) -> None:
    gateway.openai().completions.create(model="tiny", prompt="x")
    whole = gateway.engine.history[0].body["cache_salt"]
    gateway.openai().completions.create(model="tiny", prompt="x", extra_body={"cache_salt": whole})
    assert gateway.engine.history[1].body["cache_salt"] != whole


def test_an_unknown_model_is_404_and_never_the_base(gateway: Gateway) -> None:
    gateway.register("support-bot")
    for name in ("suport-bot", "support-bot@7", "support-bot@canary", "org/name", "support-bot@", "x" * 10_000):
        with pytest.raises(openai.NotFoundError) as caught:
            gateway.openai().chat.completions.create(model=name, messages=ASK)
        assert caught.value.code == "model_not_found"
        assert caught.value.param == "model"
        assert len(str(caught.value)) < 1000
    assert gateway.engine.history == []


def test_a_misspelt_model_is_told_the_nearest_name(gateway: Gateway) -> None:
    gateway.register("support-bot")
    with pytest.raises(openai.NotFoundError, match="did you mean 'support-bot'"):
        gateway.openai().chat.completions.create(model="suport-bot", messages=ASK)


def test_a_wrong_key_is_401_invalid_api_key(gateway: Gateway) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        gateway.openai("ld-wrong").chat.completions.create(model="tiny", messages=ASK)
    assert caught.value.code == "invalid_api_key"
    assert gateway.http.post("/v1/completions", json={}, headers={"authorization": ""}).status_code == 401


def test_open_inference_takes_any_key_or_none_but_admin_still_needs_one(start: Start) -> None:
    with start(open_inference=True) as gateway:
        gateway.openai("EMPTY").completions.create(model="tiny", prompt="x")
        headers = {"authorization": ""}
        body = {"model": "tiny", "prompt": "x"}
        assert gateway.http.post("/v1/completions", json=body, headers=headers).status_code == 200
        assert gateway.http.get("/admin/adapters", headers=headers).status_code == 401


def test_an_admin_only_key_may_not_infer(gateway: Gateway) -> None:
    key = gateway.http.post("/admin/keys", json={"name": "ops", "scopes": ["admin"]}).json()["secret"]
    with pytest.raises(openai.PermissionDeniedError) as caught:
        gateway.openai(key).completions.create(model="tiny", prompt="x")
    assert caught.value.code == "insufficient_permissions"


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[]", "list"),
        (b"{}", "model"),
        (b'{"model": 3}', "model"),
        (b'{"model": ""}', "model"),
    ],
)
def test_a_body_that_cannot_be_used_is_400_and_says_why(gateway: Gateway, body: bytes, word: str) -> None:
    answer = gateway.http.post("/v1/chat/completions", content=body)
    assert answer.status_code == 400
    assert word in answer.json()["error"]["message"]
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_body_over_the_limit_is_413_with_value_limit_and_fix(start: Start) -> None:
    with start(max_body_bytes=2000) as gateway:
        announced = gateway.http.post("/v1/completions", content=b"x" * 3000)
        chunked = gateway.http.post("/v1/completions", content=iter([b"x" * 1500] * 2))
        for answer in (announced, chunked):
            assert answer.status_code == 413
            message = answer.json()["error"]["message"]
            assert "2000" in message
            assert "LORADOCK_MAX_BODY_BYTES" in message
        assert "3000" in announced.json()["error"]["message"]
        assert gateway.engine.history == []


def test_a_large_body_within_the_limit_passes(gateway: Gateway) -> None:
    gateway.openai().completions.create(model="tiny", prompt="x" * 3_000_000)
    assert len(gateway.engine.history[0].body["prompt"]) == 3_000_000


def test_models_lists_base_and_adapters_with_their_parent(gateway: Gateway) -> None:
    gateway.register("poet")
    gateway.register("poet", alpha=8)
    models = {model.id: model.model_dump() for model in gateway.openai().models.list()}
    assert list(models) == ["tiny", "poet"]
    assert models["tiny"]["parent"] is None
    assert (models["poet"]["parent"], models["poet"]["root"]) == ("tiny", "poet@2")
    assert gateway.openai().models.retrieve("poet@1").model_dump()["root"] == "poet@1"
    with pytest.raises(openai.NotFoundError) as caught:
        gateway.openai().models.retrieve("nobody")
    assert caught.value.code == "model_not_found"


def test_errors_of_the_engine_keep_their_status_in_openais_words(gateway: Gateway) -> None:
    vllm = {"error": {"message": "too long", "type": "BadRequestError", "param": "messages", "code": 400}}
    gateway.engine.enqueue(Reply(status=400, error=vllm), Reply(status=422, error={"detail": [{"msg": "bad"}]}))
    with pytest.raises(openai.BadRequestError) as caught:
        gateway.openai().chat.completions.create(model="tiny", messages=ASK)
    assert caught.value.body == {
        "message": "too long",
        "type": "invalid_request_error",
        "param": "messages",
        "code": None,
    }
    with pytest.raises(openai.UnprocessableEntityError, match="bad"):
        gateway.openai().chat.completions.create(model="tiny", messages=ASK)


def test_an_error_at_the_start_of_a_stream_is_a_status_not_a_stream(gateway: Gateway) -> None:
    gateway.engine.enqueue(Reply(stream_error={"message": "no", "type": "BadRequestError", "param": None, "code": 400}))
    with pytest.raises(openai.BadRequestError, match="no"):
        gateway.openai().chat.completions.create(model="tiny", messages=ASK, stream=True)


def test_busy_engines_errors_carry_retry_after(gateway: Gateway) -> None:
    busy = {"error": {"message": "busy", "type": "x", "param": None, "code": "busy"}}
    gateway.engine.enqueue(
        Reply(status=503, error=busy, headers=(("retry-after", "7"),)), Reply(status=503, error=busy)
    )
    body = {"model": "tiny", "prompt": "x"}
    assert gateway.http.post("/v1/completions", json=body).headers["retry-after"] == "7"
    assert gateway.http.post("/v1/completions", json=body).headers["retry-after"] == "5"


def test_paths_and_methods_nobody_serves_answer_in_openais_shape(gateway: Gateway) -> None:
    answers = {
        404: gateway.http.post("/v1/moderations", json={}),
        405: gateway.http.get("/v1/chat/completions"),
    }
    for status, answer in answers.items():
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert gateway.http.get("/internal/state").status_code == 404


def test_requests_on_version_1_finish_there_while_version_2_goes_live(gateway: Gateway) -> None:
    gateway.register("poet")
    gate = gateway.engine.gate()
    gateway.engine.enqueue(Reply(gate=gate, gate_at=1))
    running = iter(gateway.openai().chat.completions.create(model="poet", messages=ASK, stream=True))
    assert next(running).model == "poet@1"
    assert gateway.register("poet", alpha=8)["id"] == "poet@2"
    assert gateway.openai().chat.completions.create(model="poet", messages=ASK).model == "poet@2"
    assert gateway.openai().chat.completions.create(model="poet@1", messages=ASK).model == "poet@1"
    gate.open()
    assert {chunk.model for chunk in running} == {"poet@1"}


def test_the_clients_request_id_comes_back_but_the_engine_gets_a_unique_one(gateway: Gateway) -> None:
    body = {"model": "tiny", "prompt": "x"}
    answers = [gateway.http.post("/v1/completions", json=body, headers={"x-request-id": "mine"}) for _ in range(2)]
    assert [answer.headers["x-request-id"] for answer in answers] == ["mine", "mine"]
    first, second = (seen.headers["x-request-id"] for seen in gateway.engine.history)
    assert len({first, second, "mine"}) == 3
    hostile = gateway.http.post("/v1/completions", json=body, headers={"x-request-id": "a b" * 100})
    assert hostile.headers["x-request-id"] == gateway.engine.history[2].headers["x-request-id"]


def test_adapters_for_another_base_are_not_served(start: Start) -> None:
    with start() as gateway:
        gateway.register("poet")
        base = gateway.settings.model
    with open(f"{base}/config.json", "a") as config:
        config.write(" ")
    with start() as gateway:
        assert [model.id for model in gateway.openai().models.list()] == ["tiny"]
        with pytest.raises(openai.NotFoundError, match="another base model"):
            gateway.openai().completions.create(model="poet", prompt="x")


def test_a_change_made_by_another_gateway_is_followed(start: Start) -> None:
    with start() as one, start() as two:
        one.register("poet")
        eventually(lambda: "poet" in {model.id for model in two.openai().models.list()})
