"""Every 500 can be found in the log by what the client was told, whoever made it: the engine, an admin route, a bug."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest

from loradock_server.gateway import admin_keys, proxy
from tests.fakes.engine import Reply
from tests.server.gateway.conftest import Gateway

BODY: dict[str, Any] = {"model": "tiny", "prompt": "x"}


def logged(caplog: pytest.LogCaptureFixture, answer: httpx.Response) -> list[logging.LogRecord]:
    """The records that name what the answer has as its request id."""
    shown = answer.headers["x-request-id"]
    return [
        record
        for record in caplog.records
        if record.levelno >= logging.ERROR
        and shown in (getattr(record, "request_id", None), getattr(record, "client_request_id", None))
    ]


def bug(*_: object, **__: object) -> None:
    raise ZeroDivisionError("a bug")


@pytest.mark.parametrize("own_id", [None, "client-chose-this"])
@pytest.mark.parametrize("origin", ["engine", "inference", "the answer to a failure", "admin"])
def test_every_500_is_in_the_log_under_the_id_that_the_client_has(
    gateway: Gateway,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    origin: str,
    own_id: str | None,
) -> None:
    headers = {"x-request-id": own_id} if own_id else {}
    if origin == "engine":
        gateway.engine.enqueue(Reply(status=500, error={"error": {"message": "boom", "type": "x", "code": 500}}))
    elif origin == "inference":
        monkeypatch.setattr(proxy, "parse_request", bug)
    elif origin == "the answer to a failure":
        monkeypatch.setattr(proxy, "parse_request", bug)
        monkeypatch.setattr(proxy.Answer, "fail", bug)
    else:
        monkeypatch.setattr(admin_keys, "key_view", bug)
    if origin == "admin":
        answer = httpx.get(
            f"{gateway.url}/admin/keys",
            headers={"authorization": f"Bearer {gateway.key}", **headers},
            trust_env=False,
            timeout=60,
        )
    else:
        answer = gateway.http.post("/v1/completions", json=BODY, headers=headers)
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == (own_id or answer.headers["x-request-id"])
    assert answer.json()["error"]["message"]
    assert "a bug" not in answer.text
    assert logged(caplog, answer)
    monkeypatch.undo()
    assert gateway.http.post("/v1/completions", json=BODY).status_code == 200
