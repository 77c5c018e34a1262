"""Long registrations over HTTP: 202 and an operation, idempotency keys, gateways that die on the way."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from loradock_adapters.check import check_adapter
from loradock_adapters.registry import Actor, Registry
from loradock_server.gateway import operations, registration
from loradock_server.gateway.answering import Wish, read_wish
from loradock_server.gateway.errors import BadRequest
from tests.adapters.making import lora_config, write_adapter
from tests.server.gateway.conftest import Gateway, Start, eventually, files_of, good_files

LATER = {"prefer": "respond-async"}
IDLE: dict[str, Any] = {"problem": "it changes nothing", "effect": 0.0, "noise": 0.0}


def post(gateway: Gateway, files: dict[str, bytes], headers: dict[str, str], query: str = "") -> httpx.Response:
    form = [("file", (name, data)) for name, data in files.items()]
    return gateway.http.post(f"/admin/adapters/poet/versions{query}", files=form, headers=headers)


def ended(gateway: Gateway, location: str) -> dict[str, Any]:
    """The operation once it is over."""
    eventually(lambda: gateway.http.get(location).json()["state"] != "running")
    operation: dict[str, Any] = gateway.http.get(location).json()
    return operation


def uploads(gateway: Gateway) -> list[Path]:
    return list((gateway.settings.home / "tmp").iterdir())


def test_a_registration_is_followed_from_202_to_its_end(gateway: Gateway) -> None:
    gate = gateway.engine.probe_gate = gateway.engine.gate()
    accepted = post(gateway, good_files(gateway.folder / "a"), LATER)
    assert accepted.status_code == 202
    assert accepted.headers["preference-applied"] == "respond-async"
    assert accepted.headers["retry-after"]
    location = accepted.headers["location"]
    assert accepted.json()["id"] == location.rpartition("/")[2]
    gateway.engine.wait_for(gate)
    eventually(lambda: gateway.http.get(location).json()["stage"] == "probing")
    running = gateway.http.get(location)
    shown = running.json()
    assert (shown["state"], shown["done"], shown["total"]) == ("running", 0, 1)
    assert (shown["kind"], shown["adapter"], shown["created_by"]) == ("adapter.register", "poet", "first admin")
    assert (shown["result"], shown["error"], shown["finished_at"]) == (None, None, None)
    assert running.headers["retry-after"]
    (listed,) = gateway.http.get("/admin/operations").json()["data"]
    assert listed | {"updated_at": ""} == shown | {"updated_at": ""}
    gate.open()
    over = ended(gateway, location)
    assert (over["state"], over["status"], over["done"]) == ("succeeded", 201, 1)
    assert over["result"]["id"] == "poet@1"
    assert over["result"]["aliases"] == ["live"]
    assert over["finished_at"]
    assert uploads(gateway) == []
    assert gateway.openai().completions.create(model="poet", prompt="x").model == "poet@1"


def test_one_that_fails_has_the_error_that_a_waiting_client_would_have_got(gateway: Gateway) -> None:
    folder = write_adapter(gateway.folder / "bad", config=lora_config(use_dora=True))
    waited = post(gateway, files_of(folder), {})
    over = ended(gateway, post(gateway, files_of(folder), LATER).headers["location"])
    assert (over["state"], over["status"], over["stage"]) == ("failed", 422, "checking")
    assert over["error"] == waited.json()["error"]
    assert over["error"]["faults"]
    assert uploads(gateway) == []


def test_what_is_wrong_with_the_request_itself_is_said_at_once(gateway: Gateway) -> None:
    assert post(gateway, {"strange.bin": b"x"}, LATER).status_code == 400
    assert gateway.http.post("/admin/adapters/Poet/versions", json={"source": "/x"}, headers=LATER).status_code == 400
    assert gateway.http.get("/admin/operations").json()["data"] == []


def test_a_source_by_name_is_fetched_after_the_answer(start: Start, tmp_path: Path) -> None:
    with start(source_roots=(tmp_path / "opened",)) as gateway:
        inside = write_adapter(tmp_path / "opened/poet")
        for source, state in ((inside, "succeeded"), (tmp_path / "closed", "failed")):
            body = {"source": str(source)}
            accepted = gateway.http.post("/admin/adapters/poet/versions", json=body, headers=LATER)
            over = ended(gateway, accepted.headers["location"])
            assert (accepted.status_code, over["state"]) == (202, state)
        assert (over["error"]["code"], over["stage"]) == ("source_refused", "fetching")


def test_a_key_stands_for_a_source_by_its_name(start: Start, tmp_path: Path) -> None:
    one, other = (write_adapter(tmp_path / "opened" / name) for name in ("one", "other"))
    with start(source_roots=(tmp_path / "opened",)) as gateway:

        def register(source: Path) -> httpx.Response:
            body, key = {"source": str(source)}, {"idempotency-key": "k"}
            return gateway.http.post("/admin/adapters/poet/versions", json=body, headers=key)

        first = register(one)
        assert (first.status_code, register(one).json()) == (201, first.json())
        assert register(other).json()["error"]["code"] == "idempotency_key_reused"


def test_a_client_may_wait_a_while_first(gateway: Gateway) -> None:
    files = good_files(gateway.folder / "a")
    quick = post(gateway, files, {"prefer": "respond-async, wait=20"})
    assert (quick.status_code, quick.json()["id"]) == (201, "poet@1")


def test_the_same_key_with_the_same_files_is_done_once_and_answered_alike(gateway: Gateway) -> None:
    files = good_files(gateway.folder / "a")
    key = {"idempotency-key": "6f1bd114-order-7"}
    first = post(gateway, files, key)
    again = post(gateway, dict(reversed(files.items())), key)  # another form with the same files
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert gateway.engine.probed == ["poet@1"]
    later = post(gateway, files, key | LATER)
    assert (later.status_code, later.json()["state"], later.json()["result"]) == (202, "succeeded", first.json())
    assert uploads(gateway) == []


def test_the_same_key_with_anything_else_is_422(gateway: Gateway) -> None:
    files = good_files(gateway.folder / "a")
    key = {"idempotency-key": "k"}
    assert post(gateway, files, key).status_code == 201
    for other, query in (
        (files_of(write_adapter(gateway.folder / "b")) | {"README.md": b"#"}, ""),
        (files, "?alias=x"),
    ):
        answer = post(gateway, other, key, query)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert sorted(gateway.http.get("/admin/adapters/poet").json()["aliases"]) == ["live"]


def test_a_refusal_is_answered_alike_too_and_what_was_the_servers_fault_is_tried_again(start: Start) -> None:
    with start(smoke_probe="required") as gateway:
        bad = files_of(write_adapter(gateway.folder / "bad", config=lora_config(use_dora=True)))
        refused = [post(gateway, bad, {"idempotency-key": "bad"}) for _ in range(2)]
        assert [answer.status_code for answer in refused] == [422, 422]
        assert refused[0].json() == refused[1].json()
        assert len(gateway.http.get("/admin/operations").json()["data"]) == 1
        good = good_files(gateway.folder / "good")
        gateway.engine.verdict = (503, {})
        busy = post(gateway, good, {"idempotency-key": "good"})
        assert (busy.status_code, busy.headers["retry-after"]) == (503, "5")
        gateway.engine.verdict = (200, {"problem": None, "effect": 1.0, "noise": 0.0})
        assert post(gateway, good, {"idempotency-key": "good"}).status_code == 201


def test_while_it_runs_the_same_request_waits_for_nobody(gateway: Gateway) -> None:
    gate = gateway.engine.probe_gate = gateway.engine.gate()
    files, key = good_files(gateway.folder / "a"), {"idempotency-key": "k"}
    first = post(gateway, files, key | LATER)
    gateway.engine.wait_for(gate)
    again = post(gateway, files, key | LATER)
    assert again.headers["location"] == first.headers["location"]
    beside = post(gateway, files, key)
    assert (beside.status_code, beside.json()["error"]["code"]) == (409, "operation_running")
    assert first.json()["id"] in beside.json()["error"]["message"]
    gate.open()
    ended(gateway, first.headers["location"])
    assert post(gateway, files, key).json()["id"] == "poet@1"


def test_another_gateway_tells_of_it_and_answers_the_same_key(start: Start) -> None:
    with start() as one, start() as two:
        files, key = good_files(one.folder / "a"), {"idempotency-key": "k"}
        over = ended(two, post(one, files, key | LATER).headers["location"])
        assert over["result"]["id"] == "poet@1"
        assert post(two, files, key).json() == over["result"]
        assert two.engine.probed == []


def test_operations_of_a_gateway_that_died_fail_after_a_while(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "LOST_SECONDS", 1.2)
    monkeypatch.setattr(operations, "LOOK_SECONDS", 0.2)
    with start() as gateway:
        registry = Registry.open(gateway.settings.registry)
        dead = registry.operations.begin("adapter.register", "poet", runner="gone", by=Actor("me")).operation
        gate = gateway.engine.probe_gate = gateway.engine.gate()
        alive = post(gateway, good_files(gateway.folder / "a"), LATER).headers["location"]
        over = ended(gateway, f"/admin/operations/{dead.id}")
        assert (over["state"], over["status"], over["error"]["code"]) == ("failed", 503, "operation_lost")
        assert gateway.http.get(alive).json()["state"] == "running"
        gate.open()
        assert ended(gateway, alive)["state"] == "succeeded"
        registry.close()


def test_a_gateway_that_leaves_waits_for_it_and_marks_what_it_cannot_finish(start: Start) -> None:
    with start(drain_timeout=0.2) as gateway:
        gateway.engine.probe_gate = gateway.engine.gate()
        location = post(gateway, good_files(gateway.folder / "a"), LATER).headers["location"]
        gateway.engine.wait_for(gateway.engine.probe_gate)
        settings = gateway.settings
    registry = Registry.open(settings.registry)
    over = registry.operations.get(location.rpartition("/")[2])
    assert over.answer is not None
    assert (over.state, over.answer["status"]) == ("failed", 503)
    assert over.answer["body"]["error"]["code"] == "shutting_down"
    registry.close()


def test_a_flood_of_registrations_leaves_threads_for_everything_else(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = threading.Event()
    checking: list[Path] = []

    def slowly(folder: Path, *rest: Any) -> Any:
        checking.append(folder)
        assert opened.wait(120)
        return check_adapter(folder, *rest)

    monkeypatch.setattr(registration, "check_adapter", slowly)
    locations = []
    for alpha in range(1, 41):
        files = files_of(write_adapter(gateway.folder / str(alpha), config=lora_config(lora_alpha=alpha)))
        locations.append(post(gateway, files, LATER).headers["location"])
    assert gateway.http.post("/admin/keys", json={"name": "app"}).is_success  # which needs a thread
    eventually(lambda: len(checking) == registration.AT_ONCE)
    opened.set()
    assert {ended(gateway, location)["state"] for location in locations} == {"succeeded"}


def test_operations_come_page_by_page_and_unknown_ones_are_404(gateway: Gateway) -> None:
    for alpha in (1, 2, 3):
        files = files_of(write_adapter(gateway.folder / str(alpha), config=lora_config(lora_alpha=alpha)))
        ended(gateway, post(gateway, files, LATER).headers["location"])
    first = gateway.http.get("/admin/operations?limit=2").json()
    second = gateway.http.get(f"/admin/operations?limit=2&after={first['last_id']}").json()
    versions = [operation["result"]["version"] for operation in first["data"] + second["data"]]
    assert (versions, first["has_more"], second["has_more"]) == ([3, 2, 1], True, False)
    for path in ("/admin/operations/op-none", "/admin/operations?after=op-none"):
        answer = gateway.http.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "operation_not_found")


@pytest.mark.parametrize(
    ("prefer", "wish"),
    [
        (None, Wish()),
        ("", Wish()),
        ("return=minimal", Wish()),
        ("Respond-Async", Wish(later=True)),
        ("wait=3, respond-async", Wish(later=True, wait_seconds=3)),
        ("respond-async, wait=99999999999999999999", Wish(later=True, wait_seconds=60)),
        ("respond-async, wait=-1", Wish(later=True)),
        ("respond-async, wait=x, wait=\u00b2", Wish(later=True)),
    ],
)
def test_preferences_are_read_and_unknown_ones_ignored(prefer: str | None, wish: Wish) -> None:
    assert read_wish(prefer, None) == wish


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\t", "caf\u00e9"])
def test_keys_that_cannot_be_are_refused(key: str) -> None:
    with pytest.raises(BadRequest, match="Idempotency-Key"):
        read_wish(None, key)
