"""Every error that OpenAI's SDK has an exception for, as its exception, with OpenAI's words for programs.

A table: what goes wrong, and what `except` clause, status, `code`, `type` and `param` it comes with.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import openai
import pytest

from tests.fakes.engine import Reply
from tests.server.gateway.conftest import Gateway, Start, eventually
from tests.server.gateway.documented import DocumentedOpenAIClient

ASK: Any = [{"role": "user", "content": "Hi"}]
Do = Callable[[Gateway], Any]


def chat(gateway: Gateway, key: str | None = None, **more: Any) -> Any:
    return gateway.openai(key).chat.completions.create(**{"model": "tiny", "messages": ASK, **more})


class _Raw(DocumentedOpenAIClient):
    """Sends another body than the SDK made."""

    def __init__(self, body: bytes, content_type: str) -> None:
        super().__init__()
        self._body, self._type = body, content_type

    def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
        headers = {k: v for k, v in request.headers.items() if k not in ("content-length", "content-type")}
        changed = self.build_request(
            request.method, request.url, headers={**headers, "content-type": self._type}, content=self._body
        )
        return super().send(changed, stream=stream, **options)


def raw(body: bytes, content_type: str = "application/json") -> Do:
    def do(gateway: Gateway) -> Any:
        with openai.OpenAI(
            base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0, http_client=_Raw(body, content_type)
        ) as client:
            return client.chat.completions.create(model="tiny", messages=ASK)

    return do


def asked(**more: Any) -> Do:
    return lambda gateway: chat(gateway, **more)


def engine_says(status: int, message: str, param: str | None = None, code: Any = None) -> Do:
    def do(gateway: Gateway) -> Any:
        error = {"message": message, "type": "BadRequestError", "param": param, "code": code or status}
        gateway.engine.enqueue(Reply(status=status, error={"error": error}))
        return chat(gateway)

    return do


def with_key(scope: str) -> Do:
    def do(gateway: Gateway) -> Any:
        made = gateway.http.post("/admin/keys", json={"name": scope, "scopes": [scope]}).json()
        return chat(gateway, made["secret"])

    return do


def retired(gateway: Gateway) -> Any:
    gateway.register("poet")
    gateway.register("poet", alpha=8)
    assert gateway.http.post("/admin/adapters/poet/versions/1/retire").is_success
    return chat(gateway, model="poet@1")


def busy(gateway: Gateway) -> Any:
    gateway.register("bard")
    assert gateway.http.patch("/admin/adapters/bard", json={"max_concurrency": 1}).is_success
    gate = gateway.engine.gate()
    gateway.engine.enqueue(Reply(gate=gate, gate_at=1))
    first = iter(chat(gateway, model="bard", stream=True))
    next(first)
    try:
        return chat(gateway, model="bard")
    finally:
        gate.open()
        list(first)


def no_key(gateway: Gateway) -> Any:
    return chat(gateway, extra_headers={"Authorization": openai.Omit()})


def limited(limits: dict[str, int], times: int = 1, **more: Any) -> Do:
    """As a key with these limits, so many requests; one of them must fail."""

    def do(gateway: Gateway) -> Any:
        said = {"name": "limited", "scopes": ["infer"], "limits": limits}
        secret = gateway.http.post("/admin/keys", json=said).json()["secret"]
        for _ in range(times - 1):
            chat(gateway, secret, **more)
        return chat(gateway, secret, **more)

    return do


def key_is_busy(gateway: Gateway) -> Any:
    said = {"name": "busy", "scopes": ["infer"], "limits": {"max_concurrency": 1}}
    secret = gateway.http.post("/admin/keys", json=said).json()["secret"]
    gate = gateway.engine.gate()
    gateway.engine.enqueue(Reply(gate=gate, gate_at=1))
    first = iter(chat(gateway, secret, stream=True))
    next(first)
    try:
        return chat(gateway, secret)
    finally:
        gate.open()
        list(first)


def not_mine(gateway: Gateway) -> Any:
    """An adapter that there is, for others."""
    gateway.register("theirs")
    said = {"name": "mine", "scopes": ["infer"], "adapters": ["mine-*"]}
    return chat(gateway, gateway.http.post("/admin/keys", json=said).json()["secret"], model="theirs")


def expired(gateway: Gateway) -> Any:
    for seconds in (0.5, 5, 50):  # what is over before it was made is refused, and a slow machine makes it later
        soon = datetime.now(UTC) + timedelta(seconds=seconds)
        said = {"name": "short", "scopes": ["infer"], "expires_at": soon.isoformat()}
        made = gateway.http.post("/admin/keys", json=said)
        if made.is_success:
            break
    secret = made.json()["secret"]
    while datetime.now(UTC) < soon + timedelta(seconds=0.1):
        time.sleep(0.05)
    return chat(gateway, secret)


TOO_LONG = (
    "This model's maximum context length is 2048 tokens. However, your prompt contains at least 2049 input tokens, "
    "which exceeds this limit even without any output tokens. (parameter=input_tokens, value=2049)"
)
WRONG_TYPE = (
    "1 validation error:\n  {'type': 'float_parsing', 'loc': 'body.temperature', 'msg': 'Input should be a valid "
    "number, unable to parse string as a number', 'input': 'hot'}"
)
BAD = openai.BadRequestError
DOWN = openai.InternalServerError


@dataclass(frozen=True, slots=True)
class Row:
    what: str
    do: Do
    kind: type[openai.APIStatusError]
    status: int
    code: str | None
    param: str | None = None
    type: str = "invalid_request_error"
    retry_after: bool = False


TABLE = (
    Row("broken JSON", raw(b'{"model": "tiny", '), BAD, 400, None),
    Row("no JSON at all", raw(b"model=tiny"), BAD, 400, None),
    Row("another encoding", raw('{"model": "tïny"}'.encode("utf-16")), BAD, 400, None),
    Row("a list", raw(b"[]"), BAD, 400, None),
    Row("a key twice", raw(b'{"model": "tiny", "model": "other", "messages": []}'), BAD, 400, None),
    Row("NaN", raw(b'{"model": "tiny", "temperature": NaN}'), BAD, 400, None),
    Row("half a surrogate pair", raw(b'{"model": "tiny", "messages": ["\\ud800"]}'), BAD, 400, None),
    Row("nested deeply", raw(b'{"model": "tiny", "a": ' + b"[" * 400 + b"]" * 400 + b"}"), BAD, 400, None),
    Row("nested absurdly", raw(b'{"a":' * 200_000), BAD, 400, None),
    Row("a form", raw(b"{}", "text/plain"), openai.APIStatusError, 415, "unsupported_media_type"),
    Row("no model", raw(b'{"messages": []}'), BAD, 400, None, "model"),
    Row("a model that is no string", asked(model=3), BAD, 400, None, "model"),
    Row("a parameter nobody heeds", asked(functions=[{"name": "f"}]), BAD, 400, "unsupported_parameter", "functions"),
    Row("a wrong type", engine_says(400, WRONG_TYPE, "body.temperature"), BAD, 400, None, "temperature"),
    Row(
        "too long a prompt", engine_says(400, TOO_LONG, "input_tokens"), BAD, 400, "context_length_exceeded", "messages"
    ),
    Row("too large a body", asked(user="x" * 2_100_000), openai.APIStatusError, 413, "too_large"),
    Row("an unknown model", asked(model="nobody"), openai.NotFoundError, 404, "model_not_found", "model"),
    Row("a retired version", retired, openai.APIStatusError, 410, "adapter_retired", "model"),
    Row("a wrong key", asked(key="ld-wrong"), openai.AuthenticationError, 401, "invalid_api_key"),
    Row("no key", no_key, openai.AuthenticationError, 401, "invalid_api_key"),
    Row("an expired key", expired, openai.AuthenticationError, 401, "invalid_api_key"),
    Row("an adapter of others", not_mine, openai.NotFoundError, 404, "model_not_found", "model"),
    Row(
        "too many requests a minute",
        limited({"requests_per_minute": 1}, times=2),
        openai.RateLimitError,
        429,
        "rate_limit_exceeded",
        None,
        "rate_limit_error",
        True,
    ),
    Row(
        "too many tokens a minute",
        limited({"tokens_per_minute": 30}, times=2, max_tokens=20),
        openai.RateLimitError,
        429,
        "rate_limit_exceeded",
        None,
        "rate_limit_error",
        True,
    ),
    Row(
        "the budget of the day is used up",
        limited({"tokens_per_day": 20}, times=100),
        openai.RateLimitError,
        429,
        "insufficient_quota",
        None,
        "insufficient_quota",
        True,
    ),
    Row(
        "as many requests as a key may have",
        key_is_busy,
        openai.RateLimitError,
        429,
        "key_concurrency",
        None,
        "rate_limit_error",
        True,
    ),
    Row("no right to infer", with_key("admin"), openai.PermissionDeniedError, 403, "insufficient_permissions"),
    Row(
        "an adapter that cannot be loaded",
        engine_says(422, "its shape does not fit", code="adapter_rejected"),
        openai.UnprocessableEntityError,
        422,
        "adapter_rejected",
    ),
    Row(
        "as many requests as an adapter may have",
        busy,
        openai.RateLimitError,
        429,
        "adapter_concurrency",
        "model",
        "rate_limit_error",
        True,
    ),
    Row(
        "too many who wait",
        engine_says(429, "64 requests wait", code="adapter_queue_full"),
        openai.RateLimitError,
        429,
        "adapter_queue_full",
        None,
        "rate_limit_error",
        True,
    ),
    Row(
        "an overloaded engine",
        engine_says(503, "1024 requests wait", code="engine_queue_full"),
        DOWN,
        503,
        "engine_queue_full",
        None,
        "server_error",
        True,
    ),
    Row("a fault of the engine's", engine_says(500, "oops"), DOWN, 500, None, None, "server_error"),
)


def test_every_error_is_the_sdks_own_exception(start: Start, subtests: pytest.Subtests) -> None:
    with start(max_body_bytes=2_000_000) as gateway:
        for row in TABLE:
            with subtests.test(row.what):
                raises(gateway, row)


def raises(gateway: Gateway, row: Row) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        row.do(gateway)
    error = caught.value
    assert type(error) is row.kind
    assert isinstance(error.body, dict)
    assert {"message", "type", "param", "code"} <= error.body.keys()
    assert (error.status_code, error.code, error.param, error.type) == (row.status, row.code, row.param, row.type)
    assert error.body["message"] in str(error)
    assert error.request_id
    assert ("retry-after" in error.response.headers) == row.retry_after
    assert len(json.dumps(error.body)) < 2000


def test_no_engine_no_answer_in_time_and_no_connection(start: Start) -> None:
    with start(engine_up=False) as gateway:
        raises(gateway, Row("down", asked(), DOWN, 503, "engine_unavailable", None, "server_error", True))
    with start(request_timeout=0.3) as gateway:
        gateway.engine.enqueue(Reply(gate=gateway.engine.gate()))
        raises(gateway, Row("slow", asked(), DOWN, 504, "engine_timeout", None, "server_error"))
    with (
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="x", max_retries=0) as client,
        pytest.raises(openai.APIConnectionError),
    ):
        client.models.list()


@pytest.mark.parametrize("stream", [True, False])
def test_the_sdk_tries_again_by_itself_when_it_is_told_when(gateway: Gateway, stream: bool) -> None:
    busy = {"error": {"message": "64 requests wait", "type": "x", "param": None, "code": "adapter_queue_full"}}
    soon = (("retry-after", "0"),)
    client = gateway.openai().with_options(max_retries=2)
    gateway.engine.enqueue(Reply(status=429, error=busy, headers=soon), Reply(status=503, error=busy, headers=soon))
    answer: Any = client.chat.completions.create(model="tiny", messages=ASK, stream=stream)
    assert list(answer) if stream else answer.choices[0].message.content == "Hello world"
    assert len(gateway.engine.history) == 3
    wrong = {"error": {"message": "no", "type": "BadRequestError", "param": None, "code": 400}}
    gateway.engine.enqueue(Reply(status=400, error=wrong))
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="tiny", messages=ASK, stream=stream)
    assert len(gateway.engine.history) == 4, "what is wrong is not sent again"


@pytest.mark.parametrize("route", ["chat", "completions", "responses"])
def test_an_error_after_the_first_byte_is_raised_while_the_stream_is_read(gateway: Gateway, route: str) -> None:
    client = gateway.openai()
    make: dict[str, Callable[[], Any]] = {
        "chat": lambda: client.chat.completions.create(model="tiny", messages=ASK, stream=True),
        "completions": lambda: client.completions.create(model="tiny", prompt="x", stream=True),
        "responses": lambda: client.responses.create(model="tiny", input="x", stream=True),
    }
    for reply in (Reply(tokens=("a", "b"), die_at=1), Reply(tokens=("a", "b"), break_off_at=1)):
        gateway.engine.enqueue(reply)
        seen: list[Any] = []
        with pytest.raises(openai.APIError) as caught:
            seen.extend(make[route]())
        assert seen
        assert caught.value.code == "engine_unavailable"
        if reply.die_at is not None:
            gateway.engine.revive()
            eventually(lambda: gateway.http.get("/readyz").status_code == 200)


def test_a_stream_of_the_responses_api_ends_with_the_event_that_openai_has_for_errors(gateway: Gateway) -> None:
    gateway.engine.enqueue(Reply(tokens=("a", "b"), break_off_at=1))
    body = {"model": "tiny", "input": "x", "stream": True}
    *_, name, data = gateway.http.post("/v1/responses", json=body).text.strip().splitlines()
    event = json.loads(data.removeprefix("data: "))
    assert (name, event["type"], event["code"]) == ("event: error", "error", "engine_unavailable")
    assert event["message"] == event["error"]["message"]


def test_what_vllm_finds_in_the_middle_of_its_answer_is_worded_like_every_error(gateway: Gateway) -> None:
    fault = {"message": TOO_LONG, "type": "BadRequestError", "param": "input_tokens", "code": 400}
    gateway.engine.enqueue(Reply(stream_error=fault, break_off_at=1))
    seen: list[Any] = []
    with pytest.raises(openai.APIError) as caught:
        seen.extend(chat(gateway, stream=True))
    assert [chunk.choices[0].delta.content for chunk in seen] == ["Hello"]
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
    assert caught.value.type == "invalid_request_error"
