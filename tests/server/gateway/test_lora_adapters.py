"""vLLM's own routes for adapters, as a tool that was written for vLLM calls them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.adapters.making import lora_config, write_adapter
from tests.server.gateway.conftest import Gateway, Start, eventually


@pytest.fixture
def opened(start: Start, tmp_path: Path) -> Iterator[tuple[Gateway, Path]]:
    """A gateway and the folder below which it takes paths."""
    (tmp_path / "opened").mkdir()
    with start(source_roots=(tmp_path / "opened",)) as gateway:
        yield gateway, tmp_path / "opened"


def load(gateway: Gateway, name: str, path: object, **more: Any) -> httpx.Response:
    return gateway.http.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(path), **more})


def unload(gateway: Gateway, name: str, **more: Any) -> httpx.Response:
    return gateway.http.post("/v1/unload_lora_adapter", json={"lora_name": name, **more})


def models(gateway: Gateway) -> list[str]:
    return [model["id"] for model in gateway.http.get("/v1/models").json()["data"]]


def test_an_adapter_is_loaded_asked_and_unloaded_with_vllms_words(opened: tuple[Gateway, Path]) -> None:
    gateway, root = opened
    done = load(gateway, "poet", write_adapter(root / "poet"))
    assert (done.status_code, done.text) == (200, "Success: LoRA adapter 'poet' added successfully.")
    assert done.headers["x-loradock-adapter"] == "poet@1"
    assert models(gateway) == ["tiny", "poet"]
    assert gateway.openai().completions.create(model="poet", prompt="x").model == "poet@1"
    gateway.engine.adapters = [{"id": "poet@1", "tier": "memory"}]
    eventually(lambda: bool(gateway.http.get("/admin/adapters/poet").json()["residency"]))
    gone = unload(gateway, "poet", lora_int_id=7)
    assert (gone.status_code, gone.text) == (200, "Success: LoRA adapter 'poet' removed successfully.")
    eventually(lambda: gateway.engine.unloaded == ["poet@1"])
    assert models(gateway) == ["tiny"]
    assert gateway.http.post("/v1/completions", json={"model": "poet", "prompt": "x"}).status_code == 404
    assert unload(gateway, "poet").status_code == 404


def test_it_is_the_same_registry_with_versions_that_outlive_an_unload(opened: tuple[Gateway, Path]) -> None:
    gateway, root = opened
    load(gateway, "poet", write_adapter(root / "one"))
    unload(gateway, "poet")
    shown = gateway.http.get("/admin/adapters/poet").json()
    assert (shown["aliases"], [version["state"] for version in shown["versions"]]) == ({}, ["ready"])
    assert load(gateway, "poet", root / "one").headers["x-loradock-adapter"] == "poet@1"
    actions = [event["action"] for event in gateway.http.get("/admin/audit?adapter=poet").json()["data"]]
    assert actions[:2] == ["alias.set", "alias.deleted"]


def test_a_name_that_is_live_is_loaded_again_only_in_place(opened: tuple[Gateway, Path]) -> None:
    gateway, root = opened
    load(gateway, "poet", write_adapter(root / "one"))
    other = write_adapter(root / "two", config=lora_config(lora_alpha=8))
    refused = load(gateway, "poet", other)
    assert refused.status_code == 400
    assert "set 'load_inplace' to True" in refused.json()["error"]["message"]
    assert load(gateway, "poet", other, load_inplace=True).headers["x-loradock-adapter"] == "poet@2"
    assert gateway.http.get("/admin/adapters/poet").json()["aliases"] == {"live": 2}


def test_a_version_that_another_alias_needs_stays_in_memory(opened: tuple[Gateway, Path]) -> None:
    gateway, root = opened
    load(gateway, "poet", write_adapter(root / "one"))
    gateway.http.put("/admin/adapters/poet/aliases/canary", json={"version": 1})
    gateway.engine.adapters = [{"id": "poet@1", "tier": "memory"}]
    eventually(lambda: bool(gateway.http.get("/admin/adapters/poet").json()["residency"]))
    assert unload(gateway, "poet").status_code == 200
    assert gateway.engine.unloaded == []
    assert gateway.openai().completions.create(model="poet@canary", prompt="x").model == "poet@1"


def test_what_cannot_be_loaded_is_refused_as_by_every_registration(opened: tuple[Gateway, Path]) -> None:
    gateway, root = opened
    bad = write_adapter(root / "bad", config=lora_config(use_dora=True))
    good = write_adapter(root / "good")
    for answer, status, code in (
        (load(gateway, "poet", bad), 422, "adapter_rejected"),
        (load(gateway, "poet", "/etc"), 403, "source_refused"),
        (load(gateway, "tiny", good), 409, "name_taken"),
        (load(gateway, "Poet@1", good), 400, "invalid_name"),
        (load(gateway, "poet", "some-org/some-adapter"), 403, "source_refused"),  # the hub, which nobody opened
        (load(gateway, "poet", good, is_3d_lora_weight=True), 400, None),
        (load(gateway, "", good), 400, None),
        (load(gateway, "poet", ""), 400, None),
        (unload(gateway, ""), 400, None),
        (unload(gateway, "nobody"), 404, "adapter_not_found"),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    gateway.engine.verdict = (200, {"problem": "it changes nothing", "effect": 0.0, "noise": 0.0})
    assert load(gateway, "poet", good).json()["error"]["code"] == "probe_failed"
    assert models(gateway) == ["tiny"]


@pytest.mark.parametrize("body", [{}, {"lora_name": "poet"}, {"lora_name": 1, "lora_path": "/x"}, []])
def test_bodies_that_vllm_would_not_take_are_400(gateway: Gateway, body: Any) -> None:
    answer = gateway.http.post("/v1/load_lora_adapter", json=body)
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_fields_of_other_releases_of_vllm_are_ignored_as_there(opened: tuple[Gateway, Path]) -> None:
    gateway, root = opened
    done = load(gateway, "poet", write_adapter(root / "one"), base_model_name="tiny", long_lora_max_len=None)
    assert done.status_code == 200
