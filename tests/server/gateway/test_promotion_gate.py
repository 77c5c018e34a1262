"""Evaluations over HTTP, and a gate in the way of promotions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from loradock_adapters.digest import folder_digest
from loradock_server.settings import SettingsError, load_settings
from tests.server.gateway.conftest import Gateway, Start

GATE = "metric=score,no_worse_by=0.05"


@pytest.fixture
def gated(start: Start) -> Iterator[Gateway]:
    with start(promotion_gate=GATE) as running:
        yield running


def attach(gateway: Gateway, version: int, score: float, **more: Any) -> httpx.Response:
    document = {"task": "t", "metrics": {"score": score}, **more}
    return gateway.http.post(f"/admin/adapters/poet/versions/{version}/evaluations", json=document)


def promote(gateway: Gateway, version: int, **more: Any) -> httpx.Response:
    return gateway.http.put("/admin/adapters/poet/aliases/live", json={"version": version, **more})


def live(gateway: Gateway) -> Any:
    return gateway.http.get("/admin/adapters/poet").json()["aliases"]["live"]


def test_a_worse_version_is_409_with_the_numbers_until_somebody_says_why(gated: Gateway) -> None:
    gated.register("poet")
    gated.register("poet", alpha=8, query="?promote=false")
    assert attach(gated, 1, 0.5).status_code == 201
    assert attach(gated, 2, 0.4).status_code == 201
    refused = promote(gated, 2)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (409, "promotion_refused")
    (objection,) = error["gate"]
    assert (objection["rule"], objection["value"], objection["live_value"]) == ("no_worse_by", 0.4, 0.5)
    split = gated.http.put("/admin/adapters/poet/aliases/live", json={"split": {"1": 9, "2": 1}})
    assert split.status_code == 409
    assert live(gated) == 1
    forced = promote(gated, 2, force="a fix that cannot wait")
    assert forced.status_code == 200, forced.text
    assert live(gated) == 2
    (event, *_) = gated.http.get("/admin/audit?adapter=poet").json()["data"]
    assert event["after"]["forced"]["reason"] == "a fix that cannot wait"
    assert promote(gated, 1, force="").status_code == 400


def test_evaluations_are_listed_and_shown_whole(gateway: Gateway) -> None:
    gateway.register("poet")
    first = attach(gateway, 1, 0.5, note="kept").json()
    attach(gateway, 1, 0.6)
    path = "/admin/adapters/poet/versions/1/evaluations"
    page = gateway.http.get(path, params={"limit": 1}).json()
    assert (page["data"][0]["metrics"], page["has_more"]) == ({"score": 0.6}, True)
    rest = gateway.http.get(path, params={"after": page["last_id"]}).json()
    assert (rest["data"], rest["has_more"]) == ([first], False)
    shown = gateway.http.get(f"{path}/{first['id']}").json()
    assert shown["document"]["note"] == "kept"
    assert gateway.http.get(f"{path}/999").json()["error"]["code"] == "evaluation_not_found"
    assert gateway.http.get("/admin/adapters/poet/versions/9/evaluations").status_code == 404
    assert attach(gateway, 9, 0.5).status_code == 404


def test_what_is_no_evaluation_is_refused(gateway: Gateway) -> None:
    gateway.register("poet")
    path = "/admin/adapters/poet/versions/1/evaluations"
    for body in ("", "[]", "{", '{"task": "t"}', '{"task": "t", "metrics": {"a": 1, "a": 2}}'):
        assert gateway.http.post(path, content=body).status_code == 400
    assert gateway.http.post(path, content="{}", headers={"content-type": "text/html"}).status_code == 415
    assert gateway.http.get(path).json()["data"] == []


def test_an_evaluation_of_other_bytes_or_another_base_is_409(gateway: Gateway) -> None:
    view = gateway.register("poet")
    files = ("adapter_config.json", "adapter_model.safetensors")
    peft = folder_digest(gateway.folder / "poet-4", files)
    base = gateway.http.get("/admin/adapters/poet/versions/1").json()["base_digest"]
    assert attach(gateway, 1, 1, adapter_digest=view["digest"]).status_code == 201
    assert attach(gateway, 1, 1, adapter_digest=peft, base_digest=base).status_code == 201
    for more in ({"adapter_digest": "a" * 64}, {"base_digest": "b" * 64}):
        answer = attach(gateway, 1, 1, **more)
        assert answer.status_code == 409
        assert "a" * 64 in answer.text or "b" * 64 in answer.text


def test_where_an_evaluation_is_required_a_new_version_is_registered_but_not_live(start: Start) -> None:
    with start(promotion_gate='{"metric": "score", "threshold": 0.5, "required": true}') as gateway:
        gateway.register("singer", query="?promote=false")
        files = {path.name: path.read_bytes() for path in (gateway.folder / "singer-4").iterdir()}
        refused = gateway.upload("poet", files)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "promotion_refused")
        assert "poet@1" in refused.json()["error"]["message"]
        view = gateway.http.get("/admin/adapters/poet").json()
        assert (view["aliases"], view["versions"][0]["state"]) == ({}, "ready")
        assert attach(gateway, 1, 0.7).status_code == 201
        assert gateway.upload("poet", files).status_code == 200, "the same bytes again: now they may"
        assert live(gateway) == 1


@pytest.mark.parametrize("gate", ["score", "metric=score", {"metric": "score", "required": True, "extra": 1}])
def test_a_gate_that_makes_no_sense_is_refused_at_start(gate: Any) -> None:
    with pytest.raises(SettingsError, match="promotion_gate"):
        load_settings(promotion_gate=gate)


def test_the_gate_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORADOCK_PROMOTION_GATE", "metric=loss,direction=lower,no_worse_by=0.1")
    gate = load_settings().promotion_gate
    assert gate is not None
    assert (gate.metric, gate.direction, gate.no_worse_by) == ("loss", "lower", 0.1)
    monkeypatch.setenv("LORADOCK_PROMOTION_GATE", "")
    assert load_settings().promotion_gate is None
