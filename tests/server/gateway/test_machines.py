"""Gateways and an engine's stager on different machines: nothing in common but one PostgreSQL and one bucket."""

from __future__ import annotations

import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from loradock_adapters.digest import folder_digest
from loradock_server.engine.residency import AdapterGone
from loradock_server.engine.stager import Stager, StagerOrder
from tests.postgres import Postgres
from tests.seaweed import Seaweed
from tests.server.gateway.conftest import Gateway, Start, eventually


def test_what_one_registers_the_others_serve_pull_load_and_collect(
    start: Start, postgres: Postgres, seaweed: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    shared = {"registry_url": postgres.new_database(), "artifacts": f"s3://{seaweed.new_bucket()}/adapters"}
    with start(home=tmp_path / "one", **shared) as one, start(home=tmp_path / "two", **shared) as two:
        first = one.register("poet")
        second = one.register("poet", alpha=8)
        eventually(lambda: _answered_by(two) == "poet@2")
        assert _pulled(two, "poet", 1, tmp_path / "pulled") == first["digest"]

        order = StagerOrder(
            shared["artifacts"], two.settings.model, 64, 1 << 30, artifacts_cache=str(tmp_path / "three"),
            artifacts_cache_bytes=1 << 30,
        )  # fmt: skip
        stager = Stager(order)
        try:
            assert folder_digest(stager.fetch(second["digest"])) == second["digest"]
            two.http.delete("/admin/adapters/poet")
            eventually(lambda: one.http.get("/v1/models").text.find("poet") < 0)
            gone = two.http.post("/admin/gc", json={"grace_seconds": 0}).json()
            assert {blob["digest"] for blob in gone["blobs"]} == {first["digest"], second["digest"]}
            with pytest.raises(AdapterGone):
                stager.fetch(first["digest"])
        finally:
            stager.close()
        assert one.register("poet")["digest"] == first["digest"]
        eventually(lambda: _answered_by(two) == "poet@3")
        assert _pulled(two, "poet", 3, tmp_path / "again") == first["digest"]
    assert not (tmp_path / "one/store").exists()


def test_without_the_bucket_a_registration_fails_and_what_is_there_answers(
    start: Start, seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    with start(artifacts=f"s3://{seaweed.new_bucket()}") as gateway:
        gateway.register("poet")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with start(artifacts=gateway.settings.store) as gateway:
        assert _answered_by(gateway) == "poet@1"
        with pytest.raises(AssertionError, match="store_error"):
            gateway.register("poet", alpha=8)
        assert _answered_by(gateway) == "poet@1"


def _answered_by(gateway: Gateway) -> str | None:
    answer = gateway.http.post("/v1/completions", json={"model": "poet", "prompt": "x"})
    return dict(answer.headers).get("x-loradock-adapter")


def _pulled(gateway: Gateway, name: str, version: int, into: Path) -> str:
    answer = gateway.http.get(f"/admin/adapters/{name}/versions/{version}/files")
    assert answer.status_code == 200, answer.text
    with tarfile.open(fileobj=BytesIO(answer.content)) as archive:
        archive.extractall(into, filter="data")
    return folder_digest(into)
