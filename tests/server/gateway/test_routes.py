"""Every inference route goes the same way: the key, the name, the headers, the count."""

from __future__ import annotations

from typing import Any

import pytest

from loradock_server import wire
from loradock_server.gateway.routes import OPERATIONS, Operation
from tests.fakes.engine import Reply
from tests.server.gateway.conftest import Gateway, eventually

ASK: Any = [{"role": "user", "content": "Hi"}]
BODY = {"messages": ASK, "input": "x", "tokens": [1], "max_tokens": 5}


def test_the_engine_knows_every_route_and_no_other() -> None:
    assert {operation.engine_path for operation in OPERATIONS} == wire.COMPUTING | wire.READING


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.path)
def test_a_route_takes_a_key_and_a_name_and_says_who_answered(gateway: Gateway, operation: Operation) -> None:
    digest = gateway.register("poet")["digest"]
    body = {"model": "poet", **BODY}
    for headers in ({"authorization": ""}, {"authorization": "Bearer ld-wrong"}):
        assert gateway.http.post(operation.path, json=body, headers=headers).status_code == 401
    assert gateway.http.post(operation.path, json={**body, "model": "nobody"}).status_code == 404
    assert gateway.http.post(operation.path, json=BODY).status_code == 400
    assert gateway.engine.history == []
    answer = gateway.http.post(operation.path, json=body)
    assert answer.status_code == 200
    assert (answer.headers[wire.ADAPTER], answer.headers[wire.DIGEST]) == ("poet@1", digest)
    (seen,) = gateway.engine.history
    assert seen.path == operation.engine_path
    # A tokenizer is the base model's: no adapter need be loaded for it.
    who = ("poet@1", "poet@1", digest) if operation.computes else ("tiny", None, None)
    assert (seen.body["model"], seen.headers.get(wire.ADAPTER), seen.headers.get(wire.DIGEST)) == who
    assert ("cache_salt" in seen.body) == operation.takes_salt
    if operation.computes:
        eventually(lambda: gateway.metric("loradock_tokens_total", adapter="poet", type="output") == 2)
    labels = {"adapter": "poet", "version": "1", "operation": operation.name, "code": "200"}
    eventually(lambda: gateway.metric("loradock_requests_total", **labels) == 1)


def test_what_the_model_cannot_do_is_told_as_the_engine_told_it(gateway: Gateway) -> None:
    fault = wire.error_body("tiny generates text", kind="x", code="operation_not_supported", param="model")
    gateway.engine.enqueue(Reply(status=400, error=fault))
    answer = gateway.http.post("/v1/score", json={"model": "tiny", "text_1": "a", "text_2": "b"})
    assert answer.status_code == 400
    assert answer.json()["error"] == {**fault["error"], "type": "invalid_request_error"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/responses/resp_1"),
        ("DELETE", "/v1/responses/resp_1"),
        ("POST", "/v1/responses/resp_1/cancel"),
        ("GET", "/v1/responses/resp_1/input_items"),
    ],
)
def test_no_response_is_kept_and_that_is_said(gateway: Gateway, method: str, path: str) -> None:
    answer = gateway.http.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "response_not_found")
    assert "keeps no responses" in answer.json()["error"]["message"]
    assert gateway.http.request(method, path, headers={"authorization": ""}).status_code == 401
