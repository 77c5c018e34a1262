"""No route of the gateway is open by accident: every one is walked, without a key and with keys of the wrong scope."""

from __future__ import annotations

import itertools
import re
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

import httpx
import pytest
from starlette.routing import BaseRoute, Mount, Route

from loradock_adapters.base_model import BaseModel
from loradock_adapters.registry import Registry
from loradock_adapters.store import FolderStore
from loradock_server.gateway.app import create_app
from loradock_server.settings import load_settings
from tests.server.gateway.conftest import Gateway

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
# Decided, and written down in docs/security.md.
OPEN = {("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/metrics"), ("GET", "/openapi.json")}
# Values for a path's parameters: such as they are meant to be, and such as nothing should look at.
USUAL = {"name": "poet", "version": "1", "alias": "live", "key_id": "key-0123456789ab", "number": "1", "model": "tiny"}
ODD_PATHS = (
    "//admin/keys",
    "/admin//keys",
    "/admin/keys/",
    "/Admin/keys",
    "/v1/../admin/keys",
    "/v1/%2e%2e/admin/keys",
    "/healthz/../admin/keys",
    "/healthz/admin/keys",
    "/metrics/",
    "/admin/keys;x=1",
    "/admin/keys%2f",
    "/docs",
    "/redoc",
    "/internal/state",
    "/internal/metrics",
    "/livez",
    "/load",
    "/version",
    "/invocations",
    "/v1/adapters",
)
ODD = "%00..%F0%9F%98%80"


@pytest.fixture
def routes(gateway: Gateway, tmp_path: Path) -> Iterator[dict[str, set[str]]]:
    """Every path of the application with its methods."""
    registry = Registry.open(f"sqlite:///{tmp_path}/other.db")
    base = BaseModel.read(Path(gateway.settings.model))
    app = create_app(load_settings(home=tmp_path), registry, FolderStore(tmp_path), base, "t")
    found: dict[str, set[str]] = {}
    for path, methods in walked(app.routes):
        found.setdefault(path, set()).update(methods)
    yield found
    registry.close()


def walked(routes: Iterable[BaseRoute], before: str = "") -> Iterator[tuple[str, set[str]]]:
    for route in routes:
        if isinstance(route, Mount):
            yield from walked(route.routes, before + route.path)
        else:
            # A kind of route that this test does not know must not slip through it.
            assert isinstance(route, Route), route
            assert route.methods, route
            yield before + route.path, route.methods


def addresses(path: str) -> set[str]:
    """The path with its parameters filled in, twice."""
    return {
        re.sub(r"\{(\w+)(?::\w+)?\}", lambda found: USUAL.get(found[1], "x1"), path),
        re.sub(r"\{[^}]+\}", ODD, path),
    }


def ask(client: httpx.Client, method: str, path: str, key: str | None) -> httpx.Response:
    headers = {"content-type": "application/json"} | ({} if key is None else {"authorization": key})
    return client.request(method, path, content=b'{"model": "tiny", "prompt": "x"', headers=headers)


def key_for(gateway: Gateway, scope: str) -> str:
    return f"Bearer {gateway.http.post('/admin/keys', json={'name': scope, 'scopes': [scope]}).json()['secret']}"


def test_only_four_routes_answer_without_a_key(gateway: Gateway, routes: dict[str, set[str]]) -> None:
    opened, tried = set(), 0
    with httpx.Client(base_url=gateway.url, trust_env=False, timeout=60) as client:
        for path, methods in routes.items():
            for method in METHODS:
                for key in (None, "Bearer", "Basic eDp5", "Bearer ld-wrong"):
                    for address in addresses(path) if key is None else (min(addresses(path)),):
                        answer = ask(client, method, address, key)
                        tried += 1
                        if answer.is_success:
                            opened.add((method, path))
                            continue
                        expected = {401} if method in methods else {405, 404}
                        assert answer.status_code in expected, (method, address, answer.text)
                        if method == "HEAD":
                            continue
                        assert answer.json()["error"]["code"] != "internal_error"
    assert opened == OPEN
    assert tried > 1000
    assert gateway.engine.history == []


def test_a_key_opens_nothing_beyond_its_scope(gateway: Gateway, routes: dict[str, set[str]]) -> None:
    keys = {scope: key_for(gateway, scope) for scope in ("infer", "admin")}
    refused = dict.fromkeys(keys, 0)
    with httpx.Client(base_url=gateway.url, trust_env=False, timeout=60) as client:
        for path, methods in routes.items():
            for method in methods:
                if (method, path) in OPEN:
                    continue
                for address in addresses(path):
                    answers = {scope: ask(client, method, address, key) for scope, key in keys.items()}
                    wrong = [scope for scope, answer in answers.items() if answer.status_code == 403]
                    # One of the two opens it and then finds fault with the request; the other is turned away before.
                    assert len(wrong) == 1, (method, address, {s: a.status_code for s, a in answers.items()})
                    refused[wrong[0]] += 1
                    administers = path.startswith("/admin") or path.endswith("_lora_adapter")
                    assert wrong == (["infer"] if administers else ["admin"]), (method, path)
    assert min(refused.values()) > 10
    assert gateway.engine.history == []


def test_there_is_no_way_around(gateway: Gateway) -> None:
    for method, path in itertools.product(("GET", "POST"), ODD_PATHS):
        request = f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        host, _, port = gateway.url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=60) as line:
            line.sendall(request.encode())
            answer = b"".join(iter(lambda: line.recv(65536), b""))
        assert answer.split(b" ", 2)[1] in (b"401", b"404", b"405"), answer
