"""Garbage collection over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.gateway.conftest import Gateway, eventually


def collect(gateway: Gateway, **order: Any) -> list[str]:
    answer = gateway.http.post("/admin/gc", json=order)
    assert answer.status_code == 200, answer.text
    assert answer.json()["bytes"] == sum(blob["size_bytes"] for blob in answer.json()["blobs"])
    return [blob["digest"] for blob in answer.json()["blobs"]]


def test_the_bytes_of_a_deleted_version_go_once_the_engine_is_rid_of_them(gateway: Gateway) -> None:
    first, second = gateway.register("poet")["digest"], gateway.register("poet", alpha=8)["digest"]
    assert collect(gateway, grace_seconds=0) == []
    gateway.http.delete("/admin/adapters/poet/versions/1")
    gateway.engine.adapters = [{"id": "poet@1", "tier": "memory", "digest": first}]
    assert collect(gateway, grace_seconds=0) == []
    gateway.engine.adapters = []
    assert gateway.http.post("/admin/gc").json()["blobs"] == [], "the grace is an hour"
    assert collect(gateway, grace_seconds=0, dry_run=True) == [first]
    assert collect(gateway, grace_seconds=0) == [first]
    blobs = gateway.settings.home / "store" / "blobs/sha256"
    assert [blob.name for blob in blobs.iterdir()] == [second]
    (event,) = gateway.http.get("/admin/audit?limit=1").json()["data"]
    assert (event["action"], event["after"]) == ("store.collected", {"blobs": [first]})
    again = gateway.register("poet")
    assert (again["id"], again["digest"]) == ("poet@3", first)


def test_without_an_engine_nothing_is_held(gateway: Gateway) -> None:
    digest = gateway.register("poet")["digest"]
    gateway.engine.adapters = [{"id": "poet@1", "tier": "memory", "digest": digest}]
    eventually(lambda: gateway.http.get("/admin/adapters/poet").json()["tier"] == "memory")
    gateway.http.delete("/admin/adapters/poet")
    gateway.engine.die()
    assert collect(gateway, grace_seconds=0) == [digest]


@pytest.mark.parametrize("order", [{"grace_seconds": -1}, {"grace": 0}, {"dry_run": "perhaps"}, []])
def test_an_order_that_makes_no_sense_is_400(gateway: Gateway, order: Any) -> None:
    assert gateway.http.post("/admin/gc", json=order).status_code == 400
