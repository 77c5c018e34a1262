"""Ways into the registry on the real engine: the probe that ends a registration, and what it keeps out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from safetensors.numpy import load_file, save_file

from loradock_adapters.base_model import BaseModel
from tests.e2e.asking import report
from tests.e2e.loud import make_loud
from tests.e2e.server import Server

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
    assert server.get("/admin/adapters/probed").json()["residency"] == {"probed@1": "memory"}

    idle = upload(server, "probed", without_effect(make_loud(tmp_path / "idle", base, seed=71)))
    assert (idle.status_code, idle.json()["error"]["code"]) == (422, "probe_failed"), idle.text
    assert "changes nothing" in idle.json()["error"]["message"]
    report(idle.json()["error"]["message"])
    shown = server.get("/admin/adapters/probed").json()
    assert (shown["aliases"], [version["state"] for version in shown["versions"]]) == ({"live": 1}, ["ready", "failed"])
    assert "probed@2" not in shown["residency"]
    with server.client() as client:
        assert client.completions.create(model="probed", prompt="Hi", max_tokens=2).model == "probed@1"
        with pytest.raises(openai.NotFoundError, match="changes nothing"):
            client.completions.create(model="probed@2", prompt="Hi", max_tokens=2)
