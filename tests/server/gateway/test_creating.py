"""Names without a version yet."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.gateway.conftest import Gateway


def create(gateway: Gateway, **body: Any) -> Any:
    return gateway.http.post("/admin/adapters", json=body)


def test_a_name_is_taken_said_of_and_then_registered(gateway: Gateway) -> None:
    made = create(gateway, name="poet", owner="me", description="rhymes", temperature=0.5)
    assert made.status_code == 201
    assert made.headers["location"] == "/admin/adapters/poet"
    shown = gateway.http.get(made.headers["location"])
    assert (shown.json(), shown.headers["etag"]) == (made.json(), made.headers["etag"])
    assert made.json()["settings"] == {"owner": "me", "description": "rhymes", "temperature": 0.5}
    assert made.json()["versions"] == []
    asked = gateway.http.post("/v1/completions", json={"model": "poet", "prompt": "x"})
    assert (asked.status_code, asked.json()["error"]["code"]) == (404, "model_not_found")
    assert "poet" not in [model["id"] for model in gateway.http.get("/v1/models").json()["data"]]
    assert gateway.register("poet")["id"] == "poet@1"
    assert gateway.http.get("/admin/adapters/poet").json()["settings"]["owner"] == "me"
    events = [event["action"] for event in gateway.http.get("/admin/audit?adapter=poet").json()["data"]]
    assert events[-1] == "adapter.created"


def test_a_name_is_taken_once_and_again_after_its_end(gateway: Gateway) -> None:
    assert create(gateway, name="poet", owner="me").status_code == 201
    taken = create(gateway, name="poet")
    assert (taken.status_code, taken.json()["error"]["code"]) == (409, "adapter_exists")
    gateway.http.delete("/admin/adapters/poet")
    again = create(gateway, name="poet")
    assert (again.status_code, again.json()["settings"]) == (201, {})
    gateway.register("bard")
    assert create(gateway, name="bard").status_code == 409


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, None),
        ({"name": 3}, 400, None),
        ({"name": "Poet"}, 400, "invalid_name"),
        ({"name": "base"}, 400, "invalid_name"),
        ({"name": "tiny"}, 409, "name_taken"),
        ({"name": "poet", "ownr": "me"}, 400, "invalid_settings"),
        ({"name": "poet", "owner": "\0"}, 400, "invalid_settings"),
        ({"name": "poet", "temperature": "hot"}, 400, "invalid_settings"),
    ],
)
def test_what_cannot_be_created_is_refused_and_leaves_nothing(
    gateway: Gateway, body: Any, status: int, code: str | None
) -> None:
    answer = create(gateway, **body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert gateway.http.get("/admin/adapters").json()["data"] == []
