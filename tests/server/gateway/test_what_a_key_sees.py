"""A key with patterns: what it may not use does not exist for it, whichever way it asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.server.gateway.conftest import Gateway, Start

ASK: Any = [{"role": "user", "content": "x"}]


@pytest.fixture
def two(start: Start) -> Iterator[Gateway]:
    """A gateway with two adapters."""
    with start() as gateway:
        gateway.register("support-bot")
        gateway.register("mail-triage", alpha=8)
        yield gateway


def key_for(gateway: Gateway, *patterns: str, **said: Any) -> str:
    answer = gateway.http.post("/admin/keys", json={"name": "app", "adapters": list(patterns) or None, **said})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["secret"])


def models(gateway: Gateway, key: str) -> list[str]:
    return [model.id for model in gateway.openai(key).models.list()]


def test_the_list_has_what_the_key_may_use(two: Gateway) -> None:
    assert models(two, key_for(two)) == ["tiny", "mail-triage", "support-bot"]
    assert models(two, key_for(two, "support-*")) == ["support-bot"]
    assert models(two, key_for(two, "*i*")) == ["tiny", "mail-triage"]
    assert models(two, key_for(two, "nothing")) == []


def test_patterns_hold_for_names_versions_and_aliases_and_for_the_base(two: Gateway) -> None:
    client = two.openai(key_for(two, "support-*"))
    for model in ("support-bot", "support-bot@1", "support-bot@live"):
        assert client.models.retrieve(model).id == model
        assert client.chat.completions.create(model=model, messages=ASK).model == "support-bot@1"
    asked = len(two.engine.history)
    for model in ("mail-triage", "mail-triage@1", "mail-triage@live", "tiny"):
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve(model)
        assert caught.value.code == "model_not_found"
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model=model, messages=ASK)
    assert len(two.engine.history) == asked
    assert two.openai(key_for(two, "tiny")).completions.create(model="tiny", prompt="x").model == "tiny"


def test_a_hidden_name_is_answered_as_one_that_nobody_has(two: Gateway) -> None:
    key = {"authorization": f"Bearer {key_for(two, 'support-*')}"}

    def told(model: str) -> tuple[int, str]:
        answer = two.http.post("/v1/completions", json={"model": model, "prompt": "x"}, headers=key)
        return answer.status_code, answer.text.replace(model.partition("@")[0], "NAME")

    for suffix in ("", "@1", "@7", "@live", "@canary", "@"):
        assert told(f"mail-triage{suffix}") == told(f"kail-triage{suffix}")
    assert told("tiny") == told("tinz")
    two.http.delete("/admin/adapters/mail-triage/aliases/live")
    two.http.post("/admin/adapters/mail-triage/versions/1/retire").raise_for_status()
    assert told("mail-triage@1") == told("kail-triage@1")


def test_a_name_is_told_as_near_only_to_keys_that_see_it(two: Gateway) -> None:
    def message(key: str) -> str:
        answer = two.http.post(
            "/v1/completions",
            json={"model": "mail-triagE", "prompt": "x"},
            headers={"authorization": f"Bearer {key}"},
        )
        return str(answer.json()["error"]["message"])

    assert "did you mean 'mail-triage'" in message(key_for(two, "mail-*"))
    assert "did you mean" not in message(key_for(two, "support-*"))


def test_patterns_that_change_hold_from_the_next_request_on(two: Gateway) -> None:
    made = two.http.post("/admin/keys", json={"name": "app", "adapters": ["support-*"]}).json()
    assert models(two, made["secret"]) == ["support-bot"]
    two.http.patch(f"/admin/keys/{made['id']}", json={"adapters": ["mail-*"]})
    assert models(two, made["secret"]) == ["mail-triage"]
    two.http.patch(f"/admin/keys/{made['id']}", json={"adapters": None})
    assert len(models(two, made["secret"])) == 3


def test_keys_of_one_tenant_share_a_prefix_cache_and_no_others_do(gateway: Gateway) -> None:
    tenants = ("acme", "acme", "other", None, None)
    keys = [key_for(gateway, tenant=tenant) for tenant in tenants]
    named_like_a_key = gateway.http.get("/admin/keys").json()["data"][-1]["id"]
    keys.append(key_for(gateway, tenant=named_like_a_key))
    for key in keys:
        gateway.openai(key).completions.create(model="tiny", prompt="x")
    first, second, *others = (seen.body["cache_salt"] for seen in gateway.engine.history)
    assert first == second
    assert len({first, *others}) == 5


def test_without_keys_everything_is_seen(start: Start) -> None:
    with start(open_inference=True) as gateway:
        gateway.register("support-bot")
        answer = httpx.get(f"{gateway.url}/v1/models", trust_env=False, timeout=60)
        assert [model["id"] for model in answer.json()["data"]] == ["tiny", "support-bot"]


def test_a_base_model_with_a_slash_in_its_name_is_shown_and_matched(start: Start) -> None:
    with start(served_model_name="org/Base-Model") as gateway:
        key = key_for(gateway, "org/*")
        assert models(gateway, key) == ["org/Base-Model"]
        for path in ("/v1/models/org/Base-Model", "/v1/models/org%2FBase-Model"):
            asked = {"authorization": f"Bearer {key}"}
            answer = httpx.get(gateway.url + path, headers=asked, trust_env=False, timeout=60)
            assert (answer.status_code, answer.json()["id"]) == (200, "org/Base-Model")
