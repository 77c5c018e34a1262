"""The document is held against the routes here, and against the answers of every other test (see `documented`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
from starlette.routing import Route

from loradock_adapters.base_model import BaseModel
from loradock_adapters.registry import Registry
from loradock_adapters.store import FolderStore
from loradock_server.gateway.app import create_app
from loradock_server.gateway.openapi import OPERATIONS
from loradock_server.settings import load_settings
from tests.adapters.making import write_base
from tests.server.gateway.conftest import Gateway
from tests.server.gateway.documented import Document, Undocumented

ERROR: dict[str, Any] = {"error": {"message": "m", "type": "invalid_request_error", "param": None, "code": None}}


@pytest.fixture
def document(gateway: Gateway) -> dict[str, Any]:
    found: dict[str, Any] = gateway.http.get("/openapi.json", headers={"authorization": ""}).json()
    return found


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(method, path, said) for path, there in document["paths"].items() for method, said in there.items()]


def test_every_route_is_described_and_nothing_else(tmp_path: Path) -> None:
    registry = Registry.open(f"sqlite:///{tmp_path}/registry.db")
    app = create_app(
        load_settings(home=tmp_path), registry, FolderStore(tmp_path), BaseModel.read(write_base(tmp_path)), "t"
    )
    routes = {
        (method, route.path_format)
        for route in app.routes
        if isinstance(route, Route)
        for method in route.methods or ()
    }
    assert {(operation.method, operation.path) for operation in OPERATIONS} == routes
    registry.close()


def test_each_operation_says_what_a_client_needs(document: dict[str, Any]) -> None:
    ids = [said["operationId"] for _, _, said in operations(document)]
    assert len(ids) == len(set(ids))
    for method, path, said in operations(document):
        assert said["summary"], path
        assert said["tags"], path
        scope = {"/admin": "admin", "/v1": "infer"}.get("/" + path.split("/")[1])
        if f"/v1{path}" in document["paths"]:
            scope = "infer"
        if path not in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
            assert said["security"] == ([] if scope is None else [{"key": [scope]}]), path
        named = {parameter["name"] for parameter in said.get("parameters", ()) if parameter.get("in") == "path"}
        assert named == {part[1:-1] for part in path.split("/") if part.startswith("{")}, path
        if method in ("put", "patch"):
            assert "requestBody" in said or path.endswith("/pin"), path


def test_references_lead_somewhere_and_schemas_are_schemas(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    for reference in {part.split('"')[0] for part in text.split('"$ref": "')[1:]}:
        there: Any = document
        for step in reference.removeprefix("#/").split("/"):
            there = there[step]
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.Draft202012Validator({**schema, "components": document["components"]})


@pytest.mark.parametrize(
    ("method", "path", "answer"),
    [
        ("GET", "/healthz", httpx.Response(200, json={"status": "ok", "more": 1})),
        ("GET", "/healthz", httpx.Response(200, json={"status": "poorly"})),
        ("GET", "/healthz", httpx.Response(204)),
        ("GET", "/healthz", httpx.Response(200, text="ok")),
        ("GET", "/healthz", httpx.Response(200, json={"status": "ok"}, headers={"etag": '"1"'})),
        ("GET", "/readyz", httpx.Response(503, json={"status": "not ready", "reason": "it starts"})),
        ("GET", "/admin/keys", httpx.Response(418, json=ERROR, headers={"x-request-id": "1"})),
        ("GET", "/admin/keys", httpx.Response(404, json=ERROR, headers={"x-request-id": "1"})),
        ("GET", "/nowhere", httpx.Response(200, json={})),
        ("GET", "/nowhere", httpx.Response(404, json=ERROR, headers={"x-request-id": "1"})),
    ],
)
def test_an_answer_that_is_not_described_fails_the_test_that_gets_it(
    document: dict[str, Any], method: str, path: str, answer: httpx.Response
) -> None:
    with pytest.raises(Undocumented):
        Document(document).judge(method, path, answer, streamed=False)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("PUT", "/admin/keys", 405, "method_not_allowed"),
        ("GET", "/v1/completions", 405, "method_not_allowed"),
        ("POST", "/healthz", 405, "method_not_allowed"),
        ("GET", "/admin", 404, "route_not_found"),
        ("GET", "/admin/keys/", 404, "route_not_found"),
    ],
)
def test_other_methods_and_paths_are_errors_in_openais_shape(
    gateway: Gateway, method: str, path: str, status: int, code: str
) -> None:
    answer = gateway.http.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_a_405_names_every_method_of_the_path(gateway: Gateway) -> None:
    answer = gateway.http.request("PATCH", "/admin/adapters/poet/aliases/live")
    assert answer.headers["allow"] == "DELETE, GET, PUT"


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"content-type": "text/plain"}, b'{"name": "app"}', 415),
        ({"content-type": "application/x-www-form-urlencoded"}, b"name=app", 415),
        (JSON, b'{"name": "app", "name": "other"}', 400),
        (JSON, b'{"name": "app"', 400),
        (JSON, b'{"name": "app\\u0000"}', 400),
        (JSON, b'{"name": 3}', 400),
        (JSON, b'{"name": "app", "scopes": "admin"}', 400),
        (JSON, b"\xff", 400),
        (JSON, b"", 400),
        (JSON, b"[" * 100_000, 400),
        *((JSON, b'{"name":' * depth + b"1" + b"}" * depth, 400) for depth in (200, 500, 900)),
    ],
)
def test_bodies_are_judged_strictly(gateway: Gateway, headers: dict[str, str], body: bytes, status: int) -> None:
    answer = gateway.http.post("/admin/keys", content=body, headers=headers)
    assert answer.status_code == status, answer.text
    assert len(answer.content) < 1000
    assert len(gateway.http.get("/admin/keys").json()["data"]) == 1


def test_nobody_fills_memory_with_a_body_before_showing_a_key(gateway: Gateway) -> None:
    for key, status in (("ld-wrong", 401), (gateway.key, 413)):
        parts = (b" " * (1 << 16) for _ in range(160))
        answer = gateway.http.post("/admin/keys", content=parts, headers={**JSON, "authorization": f"Bearer {key}"})
        assert answer.status_code == status


@pytest.mark.parametrize("content_type", ["text/plain", "multipart/form-data; boundary=x"])
def test_inference_in_another_content_type_is_415(gateway: Gateway, content_type: str) -> None:
    answer = gateway.http.post(
        "/v1/completions", content=b'{"model": "tiny", "prompt": "x"}', headers={"content-type": content_type}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")
    assert gateway.engine.history == []


@pytest.mark.parametrize(
    "path",
    [
        "/admin/audit?limit=0",
        "/admin/audit?limit=1e9",
        "/admin/audit?after=99999999999999999999999",
        "/admin/audit?adapter=%00",
        "/admin/adapters/%00",
        "/admin/adapters/poet%00/aliases/live",
        "/admin/adapters/poet/aliases/%F0%9F%98%80",
        "/admin/adapters/poet/versions/0",
        "/admin/adapters/poet/versions/99999999999999999999999",
        "/admin/adapters/poet/versions/one",
    ],
)
def test_absurd_values_in_addresses_are_400(gateway: Gateway, path: str) -> None:
    answer = gateway.http.get(path)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]
