"""Registering while traffic flows: live at once, versions apart, running requests undisturbed."""

from __future__ import annotations

from pathlib import Path

import httpx
import openai
import pytest

from loradock_adapters.base_model import BaseModel
from tests.e2e.loud import make_loud
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
