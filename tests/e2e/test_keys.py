"""Who may do what, on the real engine: open routes, patterns, and whose prefix cache is whose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from loradock_adapters.base_model import BaseModel
from loradock_server import wire
from loradock_server.settings import load_settings
from tests.e2e.server import Server

pytestmark = pytest.mark.e2e

OPEN = {"/healthz", "/readyz", "/metrics", "/openapi.json"}


@pytest.fixture
def engine(server: Server) -> Iterator[httpx.Client]:
    """Straight to the engine's socket, past the gateway."""
    address = load_settings(home=server.home).engine
    transport = httpx.HTTPTransport(uds=address.removeprefix("unix:"))
    with httpx.Client(transport=transport, base_url="http://engine", timeout=30) as client:
        yield client


def key(server: Server, **said: Any) -> str:
    answer = server.post("/admin/keys", {"name": "app", **said})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["secret"])


def client_of(server: Server, secret: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=secret, max_retries=0, timeout=60)


def test_nothing_of_a_running_server_answers_without_a_key(server: Server, engine: httpx.Client) -> None:
    document = httpx.get(f"{server.url}/openapi.json", trust_env=False, timeout=30).json()
    for path, operations in document["paths"].items():
        for method in operations:
            url = server.url + path.replace("{", "").replace("}", "")
            answer = httpx.request(method, url, trust_env=False, timeout=30)
            assert (answer.status_code in (200, 503)) if path in OPEN else (answer.status_code == 401), (method, path)
    assert engine.get(wire.LIVE).status_code == 200
    dangerous = ("/docs", "/load", "/version", "/invocations", "/scale_elastic_ep", "/inference/v1/generate")
    for path in {*document["paths"], *dangerous, wire.STATE, wire.USAGE, wire.UNLOAD, wire.PINS, wire.METRICS}:
        for method in ("GET", "POST"):
            answer = engine.request(method, path, headers={wire.TOKEN: "guessed"})
            assert answer.status_code == 401, (method, path)


def test_a_key_with_patterns_is_served_what_they_match_and_nothing_else(server: Server, base: BaseModel) -> None:
    with client_of(server, key(server, adapters=["home-*"])) as client:
        assert [model.id for model in client.models.list()] == ["home-commands"]
        done = client.completions.create(model="home-commands", prompt="turn on the light", max_tokens=4)
        assert done.model == "home-commands@1"
        for hidden in (base.folder.name, "mail-triage", "mail-triage@1"):
            with pytest.raises(openai.NotFoundError) as caught:
                client.completions.create(model=hidden, prompt="x", max_tokens=1)
            assert caught.value.code == "model_not_found"


def test_tenants_share_a_prefix_cache_and_cannot_feel_each_others(server: Server, base: BaseModel) -> None:
    name = base.folder.name
    prompt = "The story of the lighthouse keeper and her seven cats. " * 20

    def cached_for(secret: str) -> int:
        with client_of(server, secret) as client:
            done = client.completions.create(model=name, prompt=prompt, max_tokens=1, temperature=0)
        assert done.usage is not None
        assert done.usage.prompt_tokens_details is not None
        return done.usage.prompt_tokens_details.cached_tokens or 0

    first, second = key(server, tenant="acme"), key(server, tenant="acme")
    assert cached_for(first) == 0
    assert cached_for(second) > 100
    assert cached_for(key(server, tenant="other")) == 0
    assert cached_for(key(server)) == 0
