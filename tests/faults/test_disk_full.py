"""No room on the disk: RLIMIT_FSIZE on the running gateway makes every file refuse to grow, as a full disk does.

Its log cannot grow either, so nothing is read from there.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from loradock_adapters.base_model import BaseModel
from tests.adapters.making import lora_config, write_adapter
from tests.faults.conftest import TIMEOUTS
from tests.faults.test_engine_process import tokens
from tests.faults.world import Engine, Gateway, eventually, running_gateway

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="prlimit is Linux's")
BODY = {"model": "tiny", "prompt": "good"}


@pytest.fixture
def own(base: BaseModel, own_engine: Engine, tmp_path: Path) -> Iterator[Gateway]:
    with running_gateway(tmp_path / "home", base, own_engine, **TIMEOUTS) as running:
        yield running


def set_room(gateway: Gateway, room: int) -> None:
    psutil.Process(gateway.process.pid).rlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))


def upload(http: httpx.Client, folder: Path) -> httpx.Response:
    files = [("file", (path.name, path.read_bytes())) for path in folder.iterdir()]
    return http.post("/admin/adapters/poet/versions", files=files)


def test_a_full_disk_stops_changes_and_the_ledger_but_no_answer_and_nothing_is_lost(
    own: Gateway, own_engine: Engine, tmp_path: Path
) -> None:
    first = write_adapter(tmp_path / "first", config=lora_config(lora_alpha=4))
    second = write_adapter(tmp_path / "second", config=lora_config(lora_alpha=8))
    with own.http() as http:
        assert upload(http, first).is_success
        set_room(own, 1)
        assert http.post("/v1/completions", json=BODY).status_code == 200
        for answer in (
            http.post("/admin/keys", json={"name": "late"}),
            http.patch("/admin/adapters/poet", json={"description": "changed"}),
        ):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "registry_unavailable"), answer.text
        uploaded = upload(http, second)
        assert (uploaded.status_code, uploaded.json()["error"]["code"]) == (507, "disk_full"), uploaded.text
        assert "space" in uploaded.json()["error"]["message"]
        for _ in range(5):
            assert http.post("/v1/completions", json=BODY).status_code == 200
        record = '{"seq": 900, "request_id": "r", "adapter": null, "input_tokens": 7, "output_tokens": 1}\n'
        own_engine.order(usage=record)
        eventually(lambda: tokens(http) >= 7)  # it is here, and has no place to go
        assert used(http) == 0
        set_room(own, resource.RLIM_INFINITY)
        assert upload(http, second).is_success
        eventually(lambda: used(http) >= 7)
        assert "late" not in http.get("/admin/keys").text
        own_engine.order(usage="")


def used(http: httpx.Client) -> int:
    page = http.get("/admin/usage").json()
    return sum(row["input_tokens"] for row in page["data"])
