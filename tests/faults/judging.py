"""What any answer of an inference route must be like, whatever was asked."""

from __future__ import annotations

import json

import httpx

# What a client's own fault, or the state of the server, may come to. Nothing here is anybody's failure.
FAIR = frozenset({200, 400, 404, 405, 408, 409, 413, 415, 422, 429, 501})


def require_fair(path: str, answer: httpx.Response) -> None:
    """Raises AssertionError for a failure of ours, and for an error that is not worded as the route's API has it."""
    assert answer.status_code in FAIR, f"{path}: {answer.status_code} {answer.text[:500]}"
    assert answer.headers["x-request-id"]
    if answer.status_code == 200:
        if answer.headers["content-type"].startswith("text/event-stream"):
            assert '"internal_error"' not in answer.text
        return
    said = json.loads(answer.content)
    error = said["error"]
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["type"], str)
    if path.startswith("/v1/messages"):
        assert said["type"] == "error"
    else:
        assert set(error) >= {"message", "type", "param", "code"}
        assert error["code"] is None or isinstance(error["code"], str)
        assert error["param"] is None or isinstance(error["param"], str)
