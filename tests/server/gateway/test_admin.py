"""Registering, showing and deleting adapters and keys over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from loradock_adapters.errors import RegistryError
from loradock_adapters.registry import KeyTable, Registry
from tests.adapters.making import lora_config, write_adapter
from tests.fakes.engine import Reply
from tests.server.gateway.conftest import Gateway, Start, eventually, files_of, good_files


def test_an_upload_becomes_the_live_version_at_once(gateway: Gateway) -> None:
    answer = gateway.upload("poet", {**good_files(gateway.folder / "a"), "README.md": b"# Poet", "loss.png": b"png"})
    view = answer.json()
    assert answer.status_code == 201
    assert (view["id"], view["name"], view["version"], view["created"]) == ("poet@1", "poet", 1, True)
    assert view["aliases"] == ["live"]
    assert view["report"]["ok"] is True
    blob = gateway.settings.home / "store" / "blobs" / "sha256" / view["digest"]
    names = {path.name for path in blob.iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    assert list((gateway.settings.home / "tmp").iterdir()) == []


def test_the_same_bytes_again_are_the_same_version_and_200(gateway: Gateway) -> None:
    files = good_files(gateway.folder / "a")
    first, again = gateway.upload("poet", files), gateway.upload("poet", files)
    assert (first.status_code, again.status_code) == (201, 200)
    assert (again.json()["id"], again.json()["created"]) == ("poet@1", False)


def test_what_is_registered_can_be_listed_and_shown(gateway: Gateway) -> None:
    gateway.register("poet")
    gateway.register("poet", alpha=8)
    gateway.engine.adapters = [{"id": "poet@2", "tier": "memory", "in_flight": 3}]
    eventually(lambda: gateway.http.get("/admin/adapters/poet").json()["residency"] == {"poet@2": "memory"})
    (listed,) = gateway.http.get("/admin/adapters").json()["data"]
    assert listed == gateway.http.get("/admin/adapters/poet").json()
    assert listed["aliases"] == {"live": 2}
    first, second = listed["versions"]
    assert (first["live"], second["live"], second["in_flight"]) == (False, True, 3)
    assert (first["source"], first["created_by"], first["rank"]) == ("upload", "first admin", 2)
    assert gateway.http.get("/admin/adapters/poet/versions/2").json() == second


def test_an_adapter_shows_where_its_versions_are_and_what_they_take(gateway: Gateway) -> None:
    gateway.register("poet")
    gateway.register("poet", alpha=8)
    gateway.register("idle")
    gateway.engine.adapters = [
        {"id": "poet@1", "tier": "slot", "bytes": 300, "in_flight": 2, "last_used": 1_769_879_159.5},
        {"id": "poet@2", "tier": "memory", "bytes": 200, "in_flight": 0, "last_used": None},
    ]
    gateway.engine.memory = {"bytes": 500, "limit_bytes": 1000, "adapters": 2, "limit_adapters": 8}
    eventually(lambda: gateway.http.get("/admin/adapters").json()["memory"] == gateway.engine.memory)
    idle, poet = gateway.http.get("/admin/adapters").json()["data"]
    shown = ("tier", "bytes", "in_flight", "last_used", "pinned")
    assert [idle[key] for key in shown] == ["disk", 0, 0, None, False]
    assert [poet[key] for key in shown] == ["slot", 500, 2, "2026-01-31T17:05:59.500000+00:00", False]
    assert [[version[key] for key in shown[:3]] for version in poet["versions"]] == [
        ["slot", 300, 2],
        ["memory", 200, 0],
    ]


def test_a_faulty_adapter_is_422_with_every_fault_and_leaves_nothing(gateway: Gateway) -> None:
    folder = write_adapter(gateway.folder / "bad", config=lora_config(bias="all", use_dora=True))
    answer = gateway.upload("poet", files_of(folder))
    error = answer.json()["error"]
    assert answer.status_code == 422
    assert error["code"] == "adapter_rejected"
    assert len(error["faults"]) >= 2
    assert {"code", "where", "value", "limit", "fix"} <= set(error["faults"][0])
    assert gateway.http.get("/admin/adapters").json()["data"] == []
    assert not (gateway.settings.home / "store" / "blobs").exists()
    assert list((gateway.settings.home / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("Poet", 400, "invalid_name"),
        ("poet@3", 400, "invalid_name"),
        ("other", 400, "invalid_name"),
        ("tiny", 409, "name_taken"),
    ],
)
def test_names_that_cannot_be_are_refused_before_the_upload(
    gateway: Gateway, name: str, status: int, code: str
) -> None:
    answer = gateway.upload(name, good_files(gateway.folder / "a"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize("name", ["../adapter_config.json", "/etc/passwd", "x.bin", "", "adapter_config.json\0"])
def test_only_plain_names_of_adapter_files_are_taken(gateway: Gateway, name: str) -> None:
    boundary = "b"
    body = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\nx\r\n--{boundary}--\r\n'
    )
    answer = gateway.http.post(
        "/admin/adapters/poet/versions",
        content=body.encode(),
        headers={"content-type": f"multipart/form-data; boundary={boundary}"},
    )
    assert answer.status_code == 400
    assert not (gateway.settings.home / "adapter_config.json").exists()


@pytest.mark.parametrize(
    ("content_type", "body", "word"),
    [
        ("multipart/form-data", b"x", "boundary"),
        ("multipart/form-data; boundary=b", b"--b--\r\n", "no part"),
        ("multipart/form-data; boundary=b", b"nonsense", "multipart"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\nx\r\n--b--',
            "`file`",
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="README.md"\r\n\r\nhalf',
            "last boundary",
        ),
        ("multipart/form-data; boundary=b", b"--b\r\nX-Long: " + b"x" * 9000 + b"\r\n\r\nx\r\n--b--", "header"),
        ("application/json", b"{", "JSON"),
        ("application/json", b'{"source": 3}', "source"),
    ],
)
def test_bodies_that_are_no_upload_are_400_and_say_why(
    gateway: Gateway, content_type: str, body: bytes, word: str
) -> None:
    answer = gateway.http.post("/admin/adapters/poet/versions", content=body, headers={"content-type": content_type})
    assert answer.status_code == 400
    assert word in answer.json()["error"]["message"]


def test_an_upload_over_the_limit_is_413_while_it_still_streams(start: Start) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="adapter_model.safetensors"\r\n\r\n'
        while sent < 200 << 20:
            sent += 1 << 16
            yield b"x" * (1 << 16)

    with start(max_adapter_bytes=1 << 20) as gateway:
        answer = gateway.http.post(
            "/admin/adapters/poet/versions",
            content=endless(),
            headers={"content-type": "multipart/form-data; boundary=b"},
        )
        message = answer.json()["error"]["message"]
        assert answer.status_code == 413
        assert "1048576" in message
        assert "LORADOCK_MAX_ADAPTER_BYTES" in message
        assert sent < 100 << 20
        assert list((gateway.settings.home / "tmp").iterdir()) == []


def test_requests_are_answered_while_an_upload_is_checked_and_stored(gateway: Gateway) -> None:
    headers = {"content-type": "multipart/form-data; boundary=b"}

    def halting() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="README.md"\r\n\r\n'
        yield b"x"
        assert gateway.openai().completions.create(model="tiny", prompt="x").choices[0].text == "Hello world"
        yield b"\r\n--b--\r\n"

    answer = gateway.http.post("/admin/adapters/poet/versions", content=halting(), headers=headers)
    assert answer.status_code == 422


def test_a_path_on_the_server_counts_only_below_the_opened_folders(start: Start, tmp_path: Path) -> None:
    root = tmp_path / "opened"
    inside = write_adapter(root / "poet")
    outside = write_adapter(tmp_path / "closed")
    (root / "link").symlink_to(outside)
    tricky = write_adapter(root / "tricky")
    (tricky / "README.md").symlink_to("/etc/hostname")

    with start(source_roots=(root,)) as gateway:

        def post(source: str) -> httpx.Response:
            return gateway.http.post("/admin/adapters/poet/versions", json={"source": source})

        assert post(str(inside)).json()["id"] == "poet@1"
        for source in (outside, root / "link", root / ".." / "closed", tricky, root / "missing"):
            answer = post(str(source))
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "source_refused"), source
        assert post("poet").status_code == 403
        assert gateway.http.get("/admin/adapters/poet").json()["versions"][0]["source"] == str(inside)


def test_without_opened_folders_no_path_is_taken(gateway: Gateway) -> None:
    folder = write_adapter(gateway.folder / "a")
    answer = gateway.http.post("/admin/adapters/poet/versions", json={"source": str(folder)})
    assert answer.status_code == 403
    assert "LORADOCK_SOURCE_ROOTS" in answer.json()["error"]["message"]


def test_a_deleted_adapter_is_404_at_once_and_unloaded(gateway: Gateway) -> None:
    gateway.register("poet")
    gateway.engine.adapters = [{"id": "poet@1", "tier": "memory"}]
    eventually(lambda: bool(gateway.http.get("/admin/adapters/poet").json()["residency"]))
    answer = gateway.http.delete("/admin/adapters/poet")
    assert answer.json() == {
        "object": "adapter",
        "name": "poet",
        "deleted": True,
        "versions": [1],
        "unloaded": True,
    }
    assert gateway.engine.unloaded == ["poet@1"]
    assert gateway.http.post("/v1/completions", json={"model": "poet", "prompt": "x"}).status_code == 404
    for method in ("GET", "DELETE"):
        gone = gateway.http.request(method, "/admin/adapters/poet")
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "adapter_not_found")


def test_a_bug_of_ours_is_a_500_that_shows_an_id_and_nothing_else(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("insides")

    monkeypatch.setattr(KeyTable, "page", broken)
    answer = gateway.http.get("/admin/keys")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert "insides" not in answer.text
    assert answer.headers["x-request-id"]


def test_a_registry_that_is_gone_is_503_for_admins_and_changes_nothing_for_clients(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.register("poet")

    def gone(*_: object) -> None:
        raise RegistryError("the database is gone")

    for method in ("catalogue", "revision"):
        monkeypatch.setattr(Registry, method, gone)
    answer = gateway.http.get("/admin/adapters")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "registry_unavailable")
    assert gateway.http.post("/v1/completions", json={"model": "poet", "prompt": "x"}).status_code == 200


def test_a_running_request_outlives_its_adapters_deletion(gateway: Gateway) -> None:
    gateway.register("poet")
    gate = gateway.engine.gate()
    gateway.engine.enqueue(Reply(gate=gate, gate_at=1))
    stream = iter(gateway.openai().completions.create(model="poet", prompt="x", stream=True))
    next(stream)
    assert gateway.http.delete("/admin/adapters/poet").status_code == 200
    gate.open()
    assert "".join(chunk.choices[0].text for chunk in stream) == " world"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/admin/adapters"),
        ("GET", "/admin/adapters/poet"),
        ("POST", "/admin/adapters/poet/versions"),
        ("PUT", "/admin/adapters/poet/pin"),
        ("DELETE", "/admin/adapters/poet/pin"),
        ("DELETE", "/admin/adapters/poet"),
        ("POST", "/admin/adapters/poet/versions/1/retire"),
        ("DELETE", "/admin/adapters/poet/versions/1"),
        ("GET", "/admin/adapters/poet/aliases"),
        ("GET", "/admin/adapters/poet/aliases/live"),
        ("PUT", "/admin/adapters/poet/aliases/live"),
        ("POST", "/admin/adapters/poet/aliases/live/rollback"),
        ("DELETE", "/admin/adapters/poet/aliases/live"),
        ("GET", "/admin/operations"),
        ("GET", "/admin/operations/op-1"),
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/v1/unload_lora_adapter"),
        ("GET", "/admin/audit"),
        ("POST", "/admin/gc"),
        ("GET", "/admin/keys"),
        ("POST", "/admin/keys"),
        ("DELETE", "/admin/keys/key-1"),
        ("PATCH", "/admin/keys/key-1"),
        ("POST", "/admin/keys/key-1/rotate"),
    ],
)
def test_every_admin_route_needs_an_admin_key(gateway: Gateway, method: str, path: str) -> None:
    key = gateway.http.post("/admin/keys", json={"name": "app", "scopes": ["inference"]}).json()["secret"]
    for header, status in (("", 401), ("Bearer ld-wrong", 401), ("Basic eDp5", 401), (f"Bearer {key}", 403)):
        answer = gateway.http.request(method, path, headers={"authorization": header})
        assert answer.status_code == status
        assert answer.json()["error"]["message"]


def test_a_key_works_from_its_creation_to_its_end(gateway: Gateway) -> None:
    made = gateway.http.post("/admin/keys", json={"name": "app"}).json()
    assert made["scopes"] == ["infer"]
    assert made["secret"].startswith("ld-")
    body, headers = {"model": "tiny", "prompt": "x"}, {"authorization": f"Bearer {made['secret']}"}
    assert gateway.http.post("/v1/completions", json=body, headers=headers).status_code == 200
    listed = gateway.http.get("/admin/keys").text
    assert made["id"] in listed
    assert made["secret"] not in listed
    assert gateway.http.delete(f"/admin/keys/{made['id']}").json()["revoked"] is True
    assert gateway.http.post("/v1/completions", json=body, headers=headers).status_code == 401


def test_a_key_revoked_elsewhere_is_refused_within_a_second(start: Start) -> None:
    with start() as one, start() as two:
        made = one.http.post("/admin/keys", json={"name": "app"}).json()
        headers = {"authorization": f"Bearer {made['secret']}"}
        assert two.http.get("/v1/models", headers=headers).status_code == 200
        one.http.delete(f"/admin/keys/{made['id']}")
        eventually(lambda: two.http.get("/v1/models", headers=headers).status_code == 401)


def test_the_last_admin_key_cannot_be_revoked(gateway: Gateway) -> None:
    (admin,) = gateway.http.get("/admin/keys").json()["data"]
    answer = gateway.http.delete(f"/admin/keys/{admin['id']}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    assert gateway.http.delete("/admin/keys/nobody").status_code == 404


@pytest.mark.parametrize(
    "body",
    [{}, {"name": ""}, {"name": "x", "scopes": []}, {"name": "x", "scopes": ["root"]}, {"name": "x", "y": 1}, []],
)
def test_a_key_that_cannot_be_made_is_400_in_openais_shape(gateway: Gateway, body: Any) -> None:
    answer = gateway.http.post("/admin/keys", content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert set(answer.json()["error"]) - {"faults"} == {"message", "type", "param", "code"}
    assert "secret" not in answer.text
