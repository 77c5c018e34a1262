"""Promote, split, roll back, retire: what operators do over HTTP, and what clients get."""

from __future__ import annotations

from collections import Counter
from typing import Any

import httpx
import pytest

from loradock_server.gateway import unloading
from loradock_server.telemetry import attributes as names
from tests.fakes.engine import Reply
from tests.server.gateway.conftest import Gateway, Start, eventually


def two_versions(gateway: Gateway) -> None:
    gateway.register("poet")
    gateway.register("poet", alpha=8)


def put(gateway: Gateway, target: Any, alias: str = "live", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return gateway.http.put(f"/admin/adapters/poet/aliases/{alias}", json=target, headers=named)


def ask(gateway: Gateway, model: str = "poet", **body: Any) -> httpx.Response:
    return gateway.http.post("/v1/completions", json={"model": model, "prompt": "x", **body})


def answered_by(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == answer.headers["x-loradock-adapter"]
    return answer.headers["x-loradock-adapter"]


def test_promoting_and_rolling_back_hold_for_the_next_request(gateway: Gateway) -> None:
    two_versions(gateway)
    assert answered_by(ask(gateway)) == "poet@2"
    promoted = put(gateway, {"version": 1}).json()
    assert (promoted["version"], promoted["split"], promoted["previous"]) == (1, None, 2)
    assert answered_by(ask(gateway)) == "poet@1"
    back = gateway.http.post("/admin/adapters/poet/aliases/live/rollback").json()
    assert (back["version"], back["previous"], back["changed_by"]) == (2, 1, "first admin")
    assert answered_by(ask(gateway)) == "poet@2"
    gateway.http.post("/admin/adapters/poet/aliases/live/rollback")
    nothing = gateway.http.post("/admin/adapters/poet/aliases/live/rollback")
    assert (nothing.status_code, nothing.json()["error"]["code"]) == (409, "conflict")


def test_a_stream_stays_on_its_version_while_the_alias_moves(gateway: Gateway) -> None:
    two_versions(gateway)
    gate = gateway.engine.gate()
    gateway.engine.enqueue(Reply(gate=gate, gate_at=1))
    stream = iter(gateway.openai().completions.create(model="poet", prompt="x", stream=True))
    chunks = [next(stream)]
    put(gateway, {"version": 1})
    assert answered_by(ask(gateway)) == "poet@1"
    gate.open()
    chunks += list(stream)
    assert {chunk.model for chunk in chunks} == {"poet@2"}


def test_a_split_goes_by_weight_and_a_user_stays_where_they_are(gateway: Gateway) -> None:
    two_versions(gateway)
    assert put(gateway, {"split": {"1": 3, "2": 1}}).json()["split"] == {"1": 3, "2": 1}
    users = [f"user-{number}" for number in range(60)]
    first = {user: answered_by(ask(gateway, user=user)) for user in users}
    assert 30 <= Counter(first.values())["poet@1"] <= 55
    assert {user: answered_by(ask(gateway, user=user)) for user in users} == first
    assert {gateway.engine.history[-1].headers["x-loradock-adapter"]} == {first[users[-1]]}
    put(gateway, {"split": {"1": 3, "2": 6}})
    then = {user: answered_by(ask(gateway, user=user)) for user in users}
    assert {(first[user], then[user]) for user in users if first[user] != then[user]} == {("poet@1", "poet@2")}


def test_without_a_user_an_api_key_stays_on_one_version(gateway: Gateway) -> None:
    two_versions(gateway)
    put(gateway, {"split": {"1": 1, "2": 1}})
    seen = set()
    for number in range(20):
        key = gateway.http.post("/admin/keys", json={"name": f"app {number}"}).json()["secret"]
        headers = {"authorization": f"Bearer {key}"}
        body = {"model": "poet", "prompt": "x"}
        got = {answered_by(gateway.http.post("/v1/completions", json=body, headers=headers)) for _ in range(2)}
        assert len(got) == 1
        seen |= got
    assert seen == {"poet@1", "poet@2"}


def test_without_user_and_key_each_request_is_drawn_anew(start: Start) -> None:
    with start(open_inference=True) as gateway:
        two_versions(gateway)
        put(gateway, {"split": {"1": 1, "2": 1}})
        body = {"model": "poet", "prompt": "x"}
        got = {
            answered_by(httpx.post(f"{gateway.url}/v1/completions", json=body, trust_env=False, timeout=60))
            for _ in range(40)
        }
        assert got == {"poet@1", "poet@2"}


@pytest.mark.parametrize(("model", "alias"), [("poet", "live"), ("poet@canary", "canary"), ("poet@1", None)])
def test_the_span_says_by_which_alias_and_which_version_of_it_answered(
    gateway: Gateway, model: str, alias: str | None
) -> None:
    two_versions(gateway)
    for name in ("live", "canary"):
        put(gateway, {"split": {"1": 1, "2": 1}}, alias=name)
    answer = answered_by(ask(gateway, model))
    (span,) = gateway.spans(named="text_completion")
    attributes = span.attributes or {}
    assert attributes.get(names.ADAPTER_ALIAS) == alias
    assert attributes[names.ADAPTER_ID] == answer
    assert attributes[names.REQUEST_MODEL] == model


def test_both_versions_of_a_split_are_live_pinned_and_listed_as_one_model(gateway: Gateway) -> None:
    two_versions(gateway)
    put(gateway, {"split": {"1": 10, "2": 90}})
    gateway.http.put("/admin/adapters/poet/pin")
    view = gateway.http.get("/admin/adapters/poet").json()
    assert view["aliases"] == {"live": {"1": 10, "2": 90}}
    assert [version["live"] for version in view["versions"]] == [True, True]
    eventually(lambda: [pin["id"] for pin in gateway.engine.pins] == ["poet@2", "poet@1"])
    models = gateway.http.get("/v1/models").json()["data"]
    assert [(model["id"], model["root"]) for model in models] == [("tiny", "tiny"), ("poet", "poet@2")]
    assert gateway.http.get("/v1/models/poet").json()["root"] == "poet@2"


def test_a_retired_version_is_410_and_unloaded_but_what_runs_on_it_finishes(gateway: Gateway) -> None:
    two_versions(gateway)
    gateway.engine.adapters = [{"id": "poet@1", "tier": "memory"}]
    eventually(lambda: bool(gateway.http.get("/admin/adapters/poet").json()["residency"]))
    gate = gateway.engine.gate()
    gateway.engine.enqueue(Reply(gate=gate, gate_at=1))
    stream = iter(gateway.openai().completions.create(model="poet@1", prompt="x", stream=True))
    next(stream)
    retired = gateway.http.post("/admin/adapters/poet/versions/1/retire").json()
    assert (retired["state"], retired["unloaded"]) == ("retired", True)
    assert gateway.engine.unloaded == ["poet@1"]
    refused = ask(gateway, "poet@1")
    assert (refused.status_code, refused.json()["error"]["code"]) == (410, "adapter_retired")
    assert "poet@1 was retired" in refused.json()["error"]["message"]
    gate.open()
    assert "".join(chunk.choices[0].text for chunk in stream) == " world"
    assert answered_by(ask(gateway)) == "poet@2"


def test_a_version_that_drains_for_long_is_unloaded_in_the_end(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unloading, "_RETRY_SECONDS", 0.05)
    monkeypatch.setattr(unloading, "_WAIT_SECONDS", 0.01)
    two_versions(gateway)
    gateway.engine.adapters = [{"id": "poet@1", "tier": "memory"}]
    gateway.engine.busy_unloads = 3
    assert gateway.http.post("/admin/adapters/poet/versions/1/retire").json()["unloaded"] is False
    eventually(lambda: gateway.engine.unloaded == ["poet@1"])
    assert gateway.engine.busy_unloads == 0


def test_a_version_that_an_alias_needs_is_409_until_it_does_not(gateway: Gateway) -> None:
    two_versions(gateway)
    put(gateway, {"split": {"1": 1, "2": 1}})
    for refused in (
        gateway.http.post("/admin/adapters/poet/versions/1/retire"),
        gateway.http.delete("/admin/adapters/poet/versions/1"),
    ):
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "version_in_use")
    put(gateway, {"version": 2})
    assert gateway.http.delete("/admin/adapters/poet/versions/1").json()["deleted"] is True
    assert ask(gateway, "poet@1").status_code == 404
    assert gateway.http.delete("/admin/adapters/poet/versions/1").status_code == 404
    assert [v["version"] for v in gateway.http.get("/admin/adapters/poet").json()["versions"]] == [2]


def test_a_new_version_need_not_go_live(gateway: Gateway) -> None:
    gateway.register("poet")
    for query, alias, alpha in (("?promote=false", None, 8), ("?alias=canary", "canary", 16)):
        view = gateway.register("poet", alpha=alpha, query=query)
        assert view["aliases"] == ([alias] if alias else [])
        assert answered_by(ask(gateway)) == "poet@1"
        assert answered_by(ask(gateway, view["id"])) == view["id"]
    assert answered_by(ask(gateway, "poet@canary")) == "poet@3"


def test_of_two_operators_who_saw_the_same_the_second_is_told_what_is_there(gateway: Gateway) -> None:
    two_versions(gateway)
    tag = gateway.http.get("/admin/adapters/poet/aliases/live").headers["etag"]
    first = put(gateway, {"version": 1}, if_match=tag)
    second = put(gateway, {"split": {"1": 1, "2": 1}}, if_match=tag)
    assert (first.status_code, second.status_code) == (200, 412)
    error = second.json()["error"]
    assert (error["code"], error["current"]["version"]) == ("precondition_failed", 1)
    assert second.headers["etag"] == first.headers["etag"] != tag
    assert put(gateway, {"version": 2}, if_match=second.headers["etag"]).status_code == 200
    for header in ("nonsense", '"abc"', 'W/"0"', tag):
        assert put(gateway, {"version": 1}, if_match=header).status_code == 412
        rollback = "/admin/adapters/poet/aliases/live/rollback"
        assert gateway.http.post(rollback, headers={"if-match": header}).status_code == 412
    assert put(gateway, {"version": 1}, if_match="*").status_code == 200
    assert put(gateway, {"version": 1}, alias="new", if_match="*").status_code == 412
    whole = gateway.http.get("/admin/adapters/poet").headers["etag"]
    put(gateway, {"version": 1}, alias="new")
    for method, path in (("DELETE", ""), ("DELETE", "/versions/2"), ("POST", "/versions/2/retire")):
        stale = gateway.http.request(method, f"/admin/adapters/poet{path}", headers={"if-match": whole})
        assert stale.status_code == 412


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"version": 1, "split": {"1": 1}}, 400),
        ({"version": 0}, 400),
        ({"version": "1; DROP TABLE"}, 400),
        ({"split": {}}, 400),
        ({"split": {"1": 0}}, 400),
        ({"split": {"one": 1}}, 400),
        ({"split": {"1": 10_001}}, 400),
        ({"version": 1, "weight": 3}, 400),
        ({"version": 9}, 404),
        ({"split": {"1": 1, "9": 1}}, 404),
    ],
)
def test_an_alias_that_cannot_be_is_refused_and_nothing_changes(gateway: Gateway, body: Any, status: int) -> None:
    gateway.register("poet")
    assert put(gateway, body).status_code == status
    assert put(gateway, {"version": 1}, alias="7").status_code == 400
    assert gateway.http.get("/admin/adapters/poet").json()["aliases"] == {"live": 1}


def test_an_alias_can_be_listed_and_deleted(gateway: Gateway) -> None:
    two_versions(gateway)
    put(gateway, {"version": 1}, alias="canary")
    listed = gateway.http.get("/admin/adapters/poet/aliases").json()["data"]
    assert [(alias["alias"], alias["version"]) for alias in listed] == [("canary", 1), ("live", 2)]
    assert gateway.http.delete("/admin/adapters/poet/aliases/canary").json()["deleted"] is True
    assert ask(gateway, "poet@canary").status_code == 404
    for method in ("GET", "DELETE"):
        gone = gateway.http.request(method, "/admin/adapters/poet/aliases/canary")
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "alias_not_found")


def test_another_gateway_on_the_same_registry_follows(start: Start) -> None:
    with start() as one, start() as two:
        two_versions(one)
        eventually(lambda: ask(two).status_code == 200)
        put(one, {"version": 1})
        eventually(lambda: answered_by(ask(two)) == "poet@1")


def test_the_audit_says_who_did_it_from_where_and_comes_in_pages(gateway: Gateway) -> None:
    two_versions(gateway)
    put(gateway, {"version": 1})
    newest = gateway.http.get("/admin/audit", params={"adapter": "poet", "limit": 1}).json()
    (event,) = newest["data"]
    assert event["actor"]["name"] == "first admin"
    assert event["actor"]["key"].startswith("key-")
    assert event["actor"]["origin"] == "127.0.0.1"
    assert (event["action"], event["alias"], event["before"], event["after"]) == (
        "alias.set",
        "live",
        {"2": 1},
        {"1": 1},
    )
    assert newest["has_more"] is True
    rest = gateway.http.get("/admin/audit", params={"adapter": "poet", "after": newest["last_id"]}).json()
    assert (len(rest["data"]), rest["has_more"]) == (8, False)
    assert gateway.http.get("/admin/audit", params={"adapter": "nobody"}).json() == {
        "object": "list",
        "data": [],
        "has_more": False,
        "last_id": None,
    }
    assert gateway.http.get("/admin/audit?limit=0").status_code == 400
