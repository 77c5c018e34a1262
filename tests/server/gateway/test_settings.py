"""Saying something of an adapter over HTTP, and what its requests are like from then on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.fakes.engine import Reply
from tests.server.gateway.conftest import Gateway, Start, eventually

ASK: Any = [{"role": "user", "content": "Hi"}]
MERGE = {"content-type": "application/merge-patch+json"}


def say(gateway: Gateway, name: str, **said: Any) -> dict[str, Any]:
    answer = gateway.http.patch(f"/admin/adapters/{name}", json=said)
    assert answer.status_code == 200, answer.text
    view: dict[str, Any] = answer.json()
    return view


def test_what_was_said_is_shown_and_used_for_the_very_next_request(gateway: Gateway) -> None:
    gateway.register("poet")
    view = say(gateway, "poet", temperature=0.25, stop=["END"], system_prompt="Rhyme.", max_tokens_cap=9, owner="me")
    assert view == gateway.http.get("/admin/adapters/poet").json()
    assert view["settings"]["owner"] == "me"
    client = gateway.openai()
    client.chat.completions.create(model="poet", messages=ASK, max_tokens=500)
    list(client.chat.completions.create(model="poet", messages=ASK, stream=True, temperature=1))
    client.completions.create(model="poet@1", prompt="x", max_tokens=3, stop="mine")
    client.chat.completions.create(model="tiny", messages=ASK)
    chat, stream, completion, base = (seen.body for seen in gateway.engine.history)
    assert chat["messages"] == [{"role": "system", "content": "Rhyme."}, *ASK]
    assert (chat["temperature"], chat["stop"], chat["max_tokens"]) == (0.25, ["END"], 9)
    assert "owner" not in chat
    assert (stream["temperature"], stream["max_completion_tokens"]) == (1, 9)
    assert (completion["max_tokens"], completion["stop"], completion["temperature"]) == (3, "mine", 0.25)
    assert base["messages"] == ASK
    assert "temperature" not in base
    say(gateway, "poet", temperature=None, stop=None, system_prompt=None, max_tokens_cap=None)
    client.chat.completions.create(model="poet", messages=ASK)
    assert gateway.engine.history[-1].body.keys() == base.keys()


def test_the_engine_hears_of_the_priority_with_every_request(gateway: Gateway) -> None:
    gateway.register("poet")
    client = gateway.openai()
    client.chat.completions.create(model="poet", messages=ASK)
    say(gateway, "poet", priority="high")
    client.chat.completions.create(model="poet", messages=ASK)
    assert [seen.headers["x-loradock-priority"] for seen in gateway.engine.history] == ["normal", "high"]


def test_pin_is_part_of_it(gateway: Gateway) -> None:
    digest = gateway.register("poet")["digest"]
    assert say(gateway, "poet", pin=True)["pinned"] is True
    eventually(lambda: gateway.engine.pins == [{"id": "poet@1", "digest": digest}])
    assert say(gateway, "poet", pin=None)["pinned"] is False
    eventually(lambda: gateway.engine.pins == [])


def test_one_request_too_many_is_429_with_retry_after_and_a_place_comes_free_however_one_ends(gateway: Gateway) -> None:
    gateway.register("poet")
    gateway.register("singer")
    say(gateway, "poet", max_concurrency=1)
    gate = gateway.engine.gate()
    gateway.engine.enqueue(Reply(gate=gate, gate_at=1))
    client = gateway.openai()
    stream = client.chat.completions.create(model="poet", messages=ASK, stream=True)
    first = next(iter(stream))
    assert first.choices[0].delta.content == "Hello"
    with pytest.raises(openai.RateLimitError) as raised:
        client.completions.create(model="poet@1", prompt="x")
    assert raised.value.code == "adapter_concurrency"
    assert int(raised.value.response.headers["retry-after"]) >= 1
    assert raised.value.response.headers["x-loradock-adapter"] == "poet@1"
    assert len(gateway.engine.history) == 1, "the engine is not asked"
    client.chat.completions.create(model="singer", messages=ASK)
    client.chat.completions.create(model="tiny", messages=ASK)
    stream.close()  # the client leaves in the middle
    eventually(lambda: _answers(gateway, "poet"))
    gateway.engine.enqueue(Reply(status=400, error={"message": "no"}))
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="poet", messages=ASK)
    assert _answers(gateway, "poet")


def _answers(gateway: Gateway, model: str) -> bool:
    return gateway.http.post("/v1/completions", json={"model": model, "prompt": "x"}).status_code == 200


def test_two_operators_do_not_overwrite_each_other(gateway: Gateway) -> None:
    gateway.register("poet")
    etag = gateway.http.get("/admin/adapters/poet").headers["etag"]
    first = gateway.http.patch("/admin/adapters/poet", json={"owner": "a"}, headers={"if-match": etag})
    second = gateway.http.patch("/admin/adapters/poet", json={"owner": "b"}, headers={"if-match": etag})
    assert (first.status_code, second.status_code) == (200, 412)
    assert first.headers["etag"] != etag
    assert second.json()["error"]["current"]["settings"] == {"owner": "a"}
    assert second.headers["etag"] == first.headers["etag"]


def test_a_patch_that_makes_no_sense_is_refused_and_changes_nothing(gateway: Gateway) -> None:
    gateway.register("poet")
    for body, kind, code in (
        ('{"temprature": 1}', MERGE, "invalid_settings"),
        ('{"temperature": "hot"}', MERGE, "invalid_settings"),
        ('{"pin": "yes"}', MERGE, "invalid_settings"),
        ('{"owner": "a", "owner": "b"}', MERGE, None),
        ('{"temperature": NaN}', MERGE, None),
        ("[]", MERGE, None),
        ("{", MERGE, None),
        ("", MERGE, None),
        ("[" * 100_000, MERGE, None),
        ('{"owner": "a"}', {"content-type": "text/plain"}, "unsupported_media_type"),
    ):
        answer = gateway.http.patch("/admin/adapters/poet", content=body, headers=kind)
        assert answer.status_code == (415 if code == "unsupported_media_type" else 400), answer.text
        assert answer.json()["error"]["code"] == code
        if code == "invalid_settings":
            assert answer.json()["error"]["faults"][0]["fix"]
    assert gateway.http.get("/admin/adapters/poet").json()["settings"] == {}


def test_an_unknown_adapter_is_404_and_a_stranger_401(gateway: Gateway) -> None:
    assert gateway.http.patch("/admin/adapters/nobody", json={"owner": "me"}).status_code == 404
    with httpx.Client(base_url=gateway.url, trust_env=False, timeout=60) as stranger:
        assert stranger.patch("/admin/adapters/nobody", json={"owner": "me"}).status_code == 401


def test_another_gateway_on_the_registry_follows_within_a_second(start: Start, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shared.db"
    with start(registry_url=url) as one, start(registry_url=url) as two:
        one.register("poet")
        eventually(lambda: _answers(two, "poet"))
        say(one, "poet", seed=41)

        def followed() -> bool:
            assert _answers(two, "poet")
            return two.engine.history[-1].body.get("seed") == 41

        eventually(followed)
