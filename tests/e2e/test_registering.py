"""Ways into the registry on the real engine: the probe that ends a registration, operations, and vLLM's own routes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from safetensors.numpy import load_file, save_file

from loadtest.correctness.loud import make_loud
from loradock_adapters.base_model import BaseModel
from tests.e2e.reporting import report
from tests.e2e.server import Server
from tests.e2e.waiting import eventually

pytestmark = pytest.mark.e2e


def upload(server: Server, name: str, folder: Path, **headers: str) -> httpx.Response:
    return httpx.post(
        f"{server.url}/admin/adapters/{name}/versions",
        files=[("file", (path.name, path.read_bytes())) for path in folder.iterdir()],
        headers={"authorization": f"Bearer {server.key}", **headers},
        trust_env=False,
        timeout=120,
    )


def without_effect(folder: Path) -> Path:
    """Not zero, so that the check lets it pass, and too small to change any sum."""
    weights = folder / "adapter_model.safetensors"
    tensors: dict[str, Any] = {name: tensor * np.float32(1e-15) for name, tensor in load_file(weights).items()}
    save_file(tensors, weights)
    return folder


def test_an_adapter_that_acts_passes_the_probe_and_one_that_does_nothing_is_never_served(
    server: Server, base: BaseModel, tmp_path: Path
) -> None:
    good = upload(server, "probed", make_loud(tmp_path / "good", base, seed=70)).json()
    assert good["probe"]["result"] == "passed", good
    assert good["probe"]["effect"] > 1
    report(f"the probe saw a loud adapter move a logprob by {good['probe']['effect']:.3g}")
    # The gateway asks the engine twice a second what it has in memory.
    eventually(lambda: server.get("/admin/adapters/probed").json()["residency"] == {"probed@1": "memory"})

    idle = upload(server, "probed", without_effect(make_loud(tmp_path / "idle", base, seed=71)))
    assert (idle.status_code, idle.json()["error"]["code"]) == (422, "probe_failed"), idle.text
    assert "changes nothing" in idle.json()["error"]["message"]
    report(idle.json()["error"]["message"])
    shown = server.get("/admin/adapters/probed").json()
    assert (shown["aliases"], [version["state"] for version in shown["versions"]]) == ({"live": 1}, ["ready", "failed"])
    eventually(lambda: "probed@2" not in server.get("/admin/adapters/probed").json()["residency"])
    with server.client() as client:
        assert client.completions.create(model="probed", prompt="Hi", max_tokens=2).model == "probed@1"
        with pytest.raises(openai.NotFoundError, match="changes nothing"):
            client.completions.create(model="probed@2", prompt="Hi", max_tokens=2)


def test_a_registration_in_the_background_is_seen_to_its_end(server: Server, base: BaseModel, tmp_path: Path) -> None:
    folder = make_loud(tmp_path / "later", base, seed=72)
    key = {"idempotency-key": "e2e-later-1"}
    accepted = upload(server, "later", folder, prefer="respond-async", **key)
    assert accepted.status_code == 202
    location = accepted.headers["location"]
    stages = []
    while (operation := server.get(location).json())["state"] == "running":
        stages.append(operation["stage"])
        time.sleep(0.05)
    assert set(stages) <= {None, "fetching", "checking", "storing", "probing"}
    assert (operation["state"], operation["stage"]) == ("succeeded", "probing"), operation
    assert operation["result"]["id"] == "later@1"
    assert operation["result"]["probe"]["result"] == "passed"
    assert upload(server, "later", folder, **key).json() == operation["result"]
    with server.client() as client:
        assert client.completions.create(model="later", prompt="Hi", max_tokens=2).model == "later@1"
    shown = server.loradock("adapters", "operation", operation["id"])
    assert shown["result"] == operation["result"]


def test_a_tool_that_knows_vllm_loads_and_unloads(server: Server, base: BaseModel) -> None:
    """By a path below a folder that was opened; the server's own home is one here."""
    folder = make_loud(server.home / "opened/by-vllm", base, seed=73)
    order = {"lora_name": "by-vllm", "lora_path": str(folder)}
    loaded = server.post("/v1/load_lora_adapter", order)
    assert (loaded.status_code, loaded.text) == (200, "Success: LoRA adapter 'by-vllm' added successfully.")
    again = server.post("/v1/load_lora_adapter", order)
    assert (again.status_code, "already been loaded" in again.text) == (400, True)
    with server.client() as client:
        adapted = client.completions.create(model="by-vllm", prompt="Hi", max_tokens=8, temperature=0)
        plain = client.completions.create(model=base.name, prompt="Hi", max_tokens=8, temperature=0)
        assert adapted.model == "by-vllm@1"
        assert adapted.choices[0].text != plain.choices[0].text
        assert "by-vllm" in [model.id for model in client.models.list()]
        unloaded = server.post("/v1/unload_lora_adapter", {"lora_name": "by-vllm"})
        assert (unloaded.status_code, unloaded.text) == (200, "Success: LoRA adapter 'by-vllm' removed successfully.")
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="by-vllm", prompt="Hi", max_tokens=2)
    eventually(lambda: server.metric("loradock_adapter_resident", adapter="by-vllm") == 0)
    assert server.post("/v1/load_lora_adapter", order).status_code == 200
