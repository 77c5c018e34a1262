"""Registering while traffic flows: live at once, versions apart, running requests undisturbed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from loadtest.correctness.loud import make_loud
from loradock_adapters.base_model import BaseModel
from tests.e2e.server import Server
from tests.e2e.waiting import eventually

pytestmark = pytest.mark.e2e

PROMPT = "The weather today is"


def greedy(server: Server, model: str) -> tuple[str, str]:
    done = server.client().completions.create(model=model, prompt=PROMPT, max_tokens=16, temperature=0)
    return done.model, done.choices[0].text


def test_a_registered_adapter_answers_the_next_request(server: Server, base: BaseModel, tmp_path: Path) -> None:
    with pytest.raises(openai.NotFoundError):
        greedy(server, "newcomer")
    made = server.loradock("adapters", "register", "newcomer", str(make_loud(tmp_path / "a", base, seed=1)))
    assert (made["id"], made["created"]) == ("newcomer@1", True)
    answered_by, text = greedy(server, "newcomer")
    assert answered_by == "newcomer@1"
    assert text != greedy(server, base.name)[1]
    again = server.loradock("adapters", "register", "newcomer", str(tmp_path / "a"))
    assert (again["id"], again["created"]) == ("newcomer@1", False)


def test_a_second_version_takes_over_while_a_stream_on_the_first_goes_on_to_its_end(
    server: Server, base: BaseModel, tmp_path: Path
) -> None:
    server.loradock("adapters", "register", "swap", str(make_loud(tmp_path / "one", base, seed=2)))
    first = greedy(server, "swap")
    stream = server.client().completions.create(
        model="swap", prompt=PROMPT, max_tokens=150, temperature=0, stream=True, extra_body={"ignore_eos": True}
    )
    chunks = [next(stream)]
    made = server.loradock("adapters", "register", "swap", str(make_loud(tmp_path / "two", base, seed=3)))
    assert made["id"] == "swap@2"
    second = greedy(server, "swap")
    chunks += list(stream)
    assert {chunk.model for chunk in chunks} == {"swap@1"}
    assert "".join(c.choices[0].text for c in chunks if c.choices).startswith(first[1])
    assert (first[0], second[0]) == ("swap@1", "swap@2")
    assert first[1] != second[1]
    assert greedy(server, "swap@1") == first


def test_a_bad_adapter_is_refused_with_its_reasons_and_nothing_changes(
    server: Server, base: BaseModel, tmp_path: Path
) -> None:
    folder = make_loud(tmp_path / "bad", base, seed=4, rank=128)
    parts = [("file", (path.name, path.read_bytes())) for path in folder.iterdir()]
    refused = httpx.post(
        f"{server.url}/admin/adapters/too-big/versions",
        files=parts,
        headers={"authorization": f"Bearer {server.key}"},
        trust_env=False,
        timeout=60,
    )
    assert refused.status_code == 422
    assert any("128" in str(fault) for fault in refused.json()["error"]["faults"])
    with pytest.raises(openai.NotFoundError):
        greedy(server, "too-big")


def test_a_deleted_adapter_is_gone_from_clients_and_from_the_engines_memory(
    server: Server, base: BaseModel, tmp_path: Path
) -> None:
    server.loradock("adapters", "register", "short-lived", str(make_loud(tmp_path / "a", base, seed=5)))
    greedy(server, "short-lived")
    assert server.metric("loradock_adapter_resident", adapter="short-lived", version="1") == 1
    server.loradock("adapters", "delete", "short-lived", "--yes")
    with pytest.raises(openai.NotFoundError):
        greedy(server, "short-lived")
    eventually(lambda: server.metric("loradock_adapter_resident", adapter="short-lived", version="1") == 0)


def test_what_is_said_of_an_adapter_is_what_its_requests_get(server: Server, base: BaseModel, tmp_path: Path) -> None:
    server.loradock("adapters", "register", "settled", str(make_loud(tmp_path / "a", base, seed=6)))
    client, user = server.client(), {"role": "user", "content": "Tell me about the weather."}
    system = {"role": "system", "content": "Answer as a pirate would, in one word."}
    endless = {"ignore_eos": True}

    def chat(*messages: dict[str, str], **options: Any) -> Any:
        asked: Any = list(messages)
        return client.chat.completions.create(model="settled", messages=asked, extra_body=endless, **options)

    bare = chat(user, max_tokens=20, temperature=0)
    explicit = chat(system, user, max_tokens=7, temperature=0)
    said = (f"system_prompt={system['content']}", "temperature=0", "max_tokens_cap=7", "priority=high", "pin=true")
    shown = server.loradock("adapters", "set", "settled", *said)
    assert (shown["settings"]["max_tokens_cap"], shown["pinned"]) == (7, True)
    for options in ({}, {"max_tokens": 500}):
        by_default = chat(user, **options)
        assert by_default.usage.prompt_tokens == explicit.usage.prompt_tokens != bare.usage.prompt_tokens
        assert (by_default.usage.completion_tokens, by_default.choices[0].finish_reason) == (7, "length")
        assert by_default.choices[0].message.content == explicit.choices[0].message.content
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chat(user, stream=True) if chunk.choices)
    assert streamed == explicit.choices[0].message.content
    completion = client.completions.create(model="settled", prompt=PROMPT, extra_body=endless)
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 7
    eventually(lambda: server.metric("loradock_adapter_resident", adapter="settled", version="1") == 1)

    server.loradock("adapters", "unset", "settled", "system_prompt", "max_tokens_cap", "pin")
    assert chat(user, max_tokens=20).usage.prompt_tokens == bare.usage.prompt_tokens


def test_the_gate_keeps_a_worse_version_from_going_live_until_it_is_forced(
    server: Server, base: BaseModel, tmp_path: Path
) -> None:
    for seed, score in ((7, 0.9), (8, 0.5)):
        folder = str(make_loud(tmp_path / str(seed), base, seed=seed))
        flags = ("--no-promote",) if seed == 8 else ()
        made = server.loradock("adapters", "register", "gated", folder, *flags)
        evaluation = {"task": "weather", "metrics": {"gate_score": score}}
        (tmp_path / "result.json").write_text(json.dumps(evaluation))
        server.loradock("adapters", "evaluations", made["id"], "--attach", str(tmp_path / "result.json"))
    refused = httpx.put(
        f"{server.url}/admin/adapters/gated/aliases/live",
        json={"version": 2},
        headers={"authorization": f"Bearer {server.key}"},
        trust_env=False,
        timeout=60,
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "promotion_refused")
    assert refused.json()["error"]["gate"][0]["live_value"] == 0.9
    assert greedy(server, "gated")[0] == "gated@1"
    server.loradock("adapters", "promote", "gated", "2", "--force", "measured on the wrong data")
    assert greedy(server, "gated")[0] == "gated@2"
    (event, *_) = server.loradock("audit", "--adapter", "gated")["data"]
    assert event["after"]["forced"]["reason"] == "measured on the wrong data"
