"""Pins, from the admin routes to what the engine is told, and that it goes on being told."""

from __future__ import annotations

import time
from typing import Any

import pytest

from loradock_server.gateway import pins
from tests.server.gateway.conftest import Gateway, Start, eventually


def ids(gateway: Gateway) -> list[str]:
    return [pin["id"] for pin in gateway.engine.pins]


def pin(gateway: Gateway, name: str) -> dict[str, Any]:
    answer = gateway.http.put(f"/admin/adapters/{name}/pin")
    assert answer.status_code == 200, answer.text
    view: dict[str, Any] = answer.json()
    return view


def test_a_pinned_adapters_live_version_is_named_to_the_engine_with_its_bytes(gateway: Gateway) -> None:
    gateway.register("poet")
    digest = gateway.register("poet", alpha=8)["digest"]
    gateway.register("unpinned")
    view = pin(gateway, "poet")
    assert (view["pinned"], view["pin_problem"]) == (True, None)
    assert view["pinned_at"]
    assert [version["pinned"] for version in view["versions"]] == [False, True]
    eventually(lambda: gateway.engine.pins == [{"id": "poet@2", "digest": digest}])


def test_the_pin_moves_to_the_version_that_goes_live(gateway: Gateway) -> None:
    gateway.register("poet")
    pin(gateway, "poet")
    gateway.register("poet", alpha=8)
    eventually(lambda: ids(gateway) == ["poet@2"])


def test_an_unpinned_or_deleted_adapter_is_not_kept_any_more(gateway: Gateway) -> None:
    for name in ("a", "b", "c"):
        gateway.register(name)
        pin(gateway, name)
    eventually(lambda: ids(gateway) == ["a@1", "b@1", "c@1"])
    view = gateway.http.delete("/admin/adapters/b/pin").json()
    assert (view["pinned"], view["pinned_at"]) == (False, None)
    eventually(lambda: ids(gateway) == ["a@1", "c@1"])
    gateway.http.delete("/admin/adapters/c")
    eventually(lambda: ids(gateway) == ["a@1"])


def test_pins_come_in_the_order_in_which_they_were_made(gateway: Gateway) -> None:
    for name in ("b", "a", "c"):
        gateway.register(name)
        pin(gateway, name)
    pin(gateway, "b")  # again, which changes nothing
    eventually(lambda: ids(gateway) == ["b@1", "a@1", "c@1"])


def test_a_new_engine_process_is_told_all_pins_again(gateway: Gateway) -> None:
    gateway.register("poet")
    pin(gateway, "poet")
    gateway.engine.die()
    eventually(lambda: gateway.http.get("/readyz").status_code == 503)
    assert gateway.http.get("/admin/adapters/poet").json()["pin_problem"]
    gateway.engine.revive()
    eventually(lambda: ids(gateway) == ["poet@1"])


def test_pins_made_while_no_engine_answers_are_kept_for_it(start: Start) -> None:
    with start(engine_up=False) as gateway:
        gateway.register("poet")
        assert "engine" in pin(gateway, "poet")["pin_problem"]
        gateway.engine.revive()
        eventually(lambda: ids(gateway) == ["poet@1"])


def test_a_pin_on_an_adapter_of_another_base_says_so_and_no_engine_is_told(start: Start) -> None:
    with start() as gateway:
        gateway.register("poet")
        pin(gateway, "poet")
        base = gateway.settings.model
    with open(f"{base}/config.json", "a") as config:
        config.write(" ")
    with start() as gateway:
        view = gateway.http.get("/admin/adapters/poet").json()
        assert "another base model" in view["pin_problem"]
        assert view["versions"][0]["pin_problem"] == view["pin_problem"]
        assert gateway.http.get("/admin/adapters").json()["data"][0]["pin_problem"] == view["pin_problem"]
        assert pin(gateway, "poet")["pin_problem"] == view["pin_problem"]
        assert ids(gateway) == []


def test_the_engine_is_told_again_while_a_wanted_adapter_is_missing_and_only_then(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pins, "RETRY_SECONDS", 0.2)
    gateway.register("poet")
    gateway.engine.pin_problem = "blob is missing"
    assert pin(gateway, "poet")["pin_problem"] == "blob is missing"
    eventually(lambda: gateway.engine.pinned >= 3)
    gateway.engine.adapters = [{"id": "poet@1", "tier": "memory"}]
    gateway.engine.pin_problem = None
    eventually(lambda: gateway.http.get("/admin/adapters/poet").json()["tier"] == "memory")
    eventually(lambda: _told_no_more(gateway))
    assert gateway.http.get("/admin/adapters/poet").json()["pin_problem"] is None


def _told_no_more(gateway: Gateway) -> bool:
    told = gateway.engine.pinned
    time.sleep(1.2)  # two looks at least
    return gateway.engine.pinned == told


def test_what_is_not_registered_cannot_be_pinned(gateway: Gateway) -> None:
    for method in ("PUT", "DELETE"):
        answer = gateway.http.request(method, "/admin/adapters/nobody/pin")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "adapter_not_found")
