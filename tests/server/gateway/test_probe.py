"""The smoke probe at the end of a registration: what passes, what fails, and what happens without an engine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from loradock_server.wire import error_body
from tests.server.gateway.conftest import Gateway, Start, good_files

IDLE: dict[str, Any] = {"problem": "poet@1 changes nothing", "effect": 0.0, "noise": 0.0}


def register(gateway: Gateway, name: str = "poet") -> httpx.Response:
    folder = gateway.folder / name
    return gateway.upload(name, good_files(folder) if not folder.exists() else read(gateway, name))


def read(gateway: Gateway, name: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (gateway.folder / name).iterdir()}


def refusal(code: str) -> dict[str, Any]:
    return error_body(f"the engine says {code}", kind="server_error", code=code)


def test_a_registered_adapter_was_probed_and_the_answer_says_so(gateway: Gateway) -> None:
    answer = register(gateway)
    assert answer.json()["probe"] == {"result": "passed", "reason": None, "effect": 0.5}
    assert gateway.engine.probed == ["poet@1"]


@pytest.mark.parametrize("verdict", [(200, IDLE), (422, refusal("adapter_unfit"))])
def test_what_fails_the_probe_is_a_failed_version_that_answers_nobody(
    gateway: Gateway, verdict: tuple[int, dict[str, Any]]
) -> None:
    gateway.engine.verdict = verdict
    answer = register(gateway)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (422, "probe_failed")
    (version,) = gateway.http.get("/admin/adapters/poet").json()["versions"]
    assert (version["state"], version["aliases"]) == ("failed", [])
    assert version["state_reason"] == error["message"]
    for model in ("poet", "poet@1"):
        assert gateway.http.post("/v1/completions", json={"model": model, "prompt": "x"}).status_code == 404
    assert gateway.engine.unloaded == ["poet@1"]
    assert gateway.engine.history == []


def test_a_failed_probe_leaves_the_live_version_alone_and_the_same_bytes_may_try_again(gateway: Gateway) -> None:
    gateway.register("poet", alpha=8)
    gateway.engine.verdict = (200, IDLE)
    assert register(gateway).status_code == 422
    assert gateway.http.get("/admin/adapters/poet").json()["aliases"] == {"live": 1}
    gateway.engine.verdict = (200, {"problem": None, "effect": 0.1, "noise": 0.0})
    again = register(gateway)
    assert (again.status_code, again.json()["id"], again.json()["probe"]["result"]) == (201, "poet@2", "passed")
    assert gateway.http.get("/admin/adapters/poet").json()["aliases"] == {"live": 2}


def test_bytes_that_are_ready_are_not_probed_again(gateway: Gateway) -> None:
    register(gateway)
    gateway.engine.verdict = (200, IDLE)
    again = register(gateway).json()
    assert (again["created"], again["probe"]["result"]) == (False, "not_probed")
    assert "ready before" in again["probe"]["reason"]
    assert gateway.engine.probed == ["poet@1"]


def test_a_version_cannot_answer_before_it_was_probed(gateway: Gateway) -> None:
    gate = gateway.engine.probe_gate = gateway.engine.gate()
    folder = gateway.folder / "poet"
    files = good_files(folder)
    with ThreadPoolExecutor(1) as pool:
        answering = pool.submit(gateway.upload, "poet", files)
        gateway.engine.wait_for(gate)
        assert gateway.http.get("/admin/adapters/poet/versions/1").json()["state"] == "verified"
        assert gateway.http.post("/v1/completions", json={"model": "poet@1", "prompt": "x"}).status_code == 404
        gate.open()
        assert answering.result().status_code == 201


@pytest.mark.parametrize("verdict", [{"problem": None, "effect": 0.5, "noise": 0.0}, IDLE])
def test_an_adapter_that_is_deleted_while_it_is_probed_is_a_conflict_and_may_come_again(
    gateway: Gateway, verdict: dict[str, Any]
) -> None:
    gate = gateway.engine.probe_gate = gateway.engine.gate()
    gateway.engine.verdict = (200, verdict)
    files = good_files(gateway.folder / "poet")
    with ThreadPoolExecutor(1) as pool:
        answering = pool.submit(gateway.upload, "poet", files)
        gateway.engine.wait_for(gate)
        assert gateway.http.delete("/admin/adapters/poet").status_code in (200, 204)
        gate.open()
        error = answering.result().json()["error"]
    assert (answering.result().status_code, error["code"]) == (409, "conflict")
    assert "deleted while" in error["message"]
    gateway.engine.verdict = (200, {"problem": None, "effect": 0.5, "noise": 0.0})
    assert gateway.upload("poet", files).status_code == 201


@pytest.mark.parametrize(
    ("verdict", "word"),
    [
        ((503, refusal("queue_full")), "queue_full"),
        ((404, refusal("not_found")), "not_found"),
        ((500, {}), "answered 500"),
        ((200, {"hello": 1}), "cannot be read"),
        ((401, {}), "LORADOCK_ENGINE_TOKEN"),
    ],
)
def test_an_engine_that_cannot_say_lets_it_pass_and_the_answer_says_that_it_was_not_probed(
    gateway: Gateway, verdict: tuple[int, dict[str, Any]], word: str
) -> None:
    gateway.engine.verdict = verdict
    answer = register(gateway)
    probe = answer.json()["probe"]
    assert (answer.status_code, probe["result"]) == (201, "not_probed")
    assert word in probe["reason"]


def test_without_an_engine_it_is_registered_and_not_probed(start: Start) -> None:
    with start(engine_up=False) as gateway:
        answer = register(gateway)
        assert (answer.status_code, answer.json()["probe"]["result"]) == (201, "not_probed")
        assert "not answering" in answer.json()["probe"]["reason"]


def test_where_a_probe_is_required_no_engine_means_no_version(start: Start) -> None:
    with start(engine_up=False, smoke_probe="required") as gateway:
        answer = register(gateway)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")
        assert "LORADOCK_SMOKE_PROBE" in answer.json()["error"]["message"]
        assert answer.headers["retry-after"]
        assert gateway.http.get("/admin/adapters").json()["data"] == []


def test_where_a_probe_is_required_an_engine_that_cannot_say_means_a_failed_version(start: Start) -> None:
    with start(smoke_probe="required") as gateway:
        gateway.engine.verdict = (503, refusal("no_room"))
        assert register(gateway).status_code == 503
        assert gateway.http.get("/admin/adapters/poet/versions/1").json()["state"] == "failed"
        gateway.engine.verdict = (200, {"problem": None, "effect": 1.0, "noise": 0.0})
        assert register(gateway).json()["id"] == "poet@1"


def test_switched_off_nothing_is_asked(start: Start) -> None:
    with start(smoke_probe="off") as gateway:
        assert register(gateway).json()["probe"]["result"] == "not_probed"
        assert gateway.engine.probed == []
