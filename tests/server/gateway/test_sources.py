"""Where a registration's bytes may come from, through the admin API: archives, digests, paths, URIs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import obstore
import pytest

from loradock_adapters.sources import retries
from loradock_server.settings import SettingsError, load_settings
from tests.adapters.making import write_adapter
from tests.adapters.sources.packing import entries_of, special, tar_bytes, tgz_bytes, zip_bytes
from tests.fakes.hub import COMMIT, publish
from tests.fakes.web import Web, file, redirect, running_web, stall, status
from tests.seaweed import Seaweed
from tests.server.gateway.conftest import Gateway, Start, eventually, files_of

VERSIONS = "/admin/adapters/poet/versions"


def error_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def left_behind(gateway: Gateway) -> list[Path]:
    folder = gateway.settings.home / "tmp"
    return list(folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize(
    ("name", "pack"),
    [("poet.tar", tar_bytes), ("poet.tar.gz", tgz_bytes), ("poet.TGZ", tgz_bytes), ("x.zip", zip_bytes)],
)
def test_an_uploaded_archive_is_the_same_version_as_its_files(
    gateway: Gateway, name: str, pack: Callable[..., bytes]
) -> None:
    folder = write_adapter(gateway.folder / "a")
    plain = gateway.upload("poet", files_of(folder)).json()
    answer = gateway.upload("poet", {name: pack(entries_of(folder, below="poet/"))})
    assert (answer.status_code, answer.json()["digest"], answer.json()["id"]) == (200, plain["digest"], "poet@1")
    assert left_behind(gateway) == []


def test_a_training_output_is_taken_as_it_is(gateway: Gateway) -> None:
    """`loradock train` leaves a plot and a manifest beside the adapter."""
    folder = write_adapter(gateway.folder / "run")
    (folder / "loss.png").write_bytes(b"\x89PNG")
    (folder / "manifest.json").write_text('{"recipe": "x"}')
    packed = gateway.upload("poet", {"run.tgz": tgz_bytes(entries_of(folder))})
    assert packed.status_code == 201
    assert gateway.upload("poet", files_of(folder)).json()["id"] == "poet@1"
    assert gateway.http.get("/admin/adapters/poet").json()["versions"][0]["source"] == "upload"


def test_a_hostile_archive_is_422_says_why_and_leaves_nothing(gateway: Gateway) -> None:
    evil = tar_bytes([*entries_of(write_adapter(gateway.folder / "a")), special("x", b"2", "/etc/passwd")])
    answer = gateway.upload("poet", {"poet.tar": evil})
    assert error_of(answer) == (422, "archive_refused")
    assert "a link to '/etc/passwd'" in answer.json()["error"]["message"]
    assert left_behind(gateway) == []
    assert gateway.http.get("/admin/adapters/poet").status_code == 404


def test_an_archive_that_unpacks_to_more_than_allowed_is_413(start: Start) -> None:
    with start(max_adapter_bytes=1 << 20) as gateway:
        many = zip_bytes([(str(index), b"ab" * 10_000) for index in range(60)])
        answer = gateway.upload("poet", {"poet.zip": many})
        assert error_of(answer) == (413, "too_large")
        assert left_behind(gateway) == []


def test_an_archive_comes_alone(gateway: Gateway) -> None:
    packed = tgz_bytes(entries_of(write_adapter(gateway.folder / "a")))
    for files in ({"a.tgz": packed, "README.md": b"x"}, {"README.md": b"x", "a.tgz": packed}):
        answer = gateway.upload("poet", files)
        assert answer.status_code == 400
        assert "beside other files" in answer.json()["error"]["message"]


def test_bytes_that_are_here_need_not_be_sent_again(gateway: Gateway) -> None:
    digest = gateway.register("poet")["digest"]
    answer = gateway.http.post("/admin/adapters/other-name/versions", json={"source": f"sha256:{digest}"})
    assert (answer.status_code, answer.json()["id"], answer.json()["digest"]) == (201, "other-name@1", digest)
    again = gateway.http.post(VERSIONS, json={"source": f"sha256:{digest}"})
    assert (again.status_code, again.json()["id"]) == (200, "poet@1")


def test_bytes_that_rotted_here_are_asked_for_again_and_put_right(gateway: Gateway) -> None:
    digest = gateway.register("poet")["digest"]
    (weights,) = gateway.settings.home.glob(f"store/blobs/sha256/{digest}/*.safetensors")
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    answer = gateway.http.post(VERSIONS, json={"source": f"sha256:{digest}"})
    assert error_of(answer) == (404, "digest_unknown")
    assert "damaged" in answer.json()["error"]["message"]
    assert gateway.register("poet")["id"] == "poet@1"
    again = gateway.http.post(VERSIONS, json={"source": f"sha256:{digest}"})
    assert (again.status_code, again.json()["id"]) == (200, "poet@1")


def test_an_unknown_digest_is_404_and_asks_for_the_files(gateway: Gateway) -> None:
    answer = gateway.http.post(VERSIONS, json={"source": f"sha256:{'0' * 64}"})
    assert error_of(answer) == (404, "digest_unknown")
    assert "upload" in answer.json()["error"]["message"]
    for bad in ("", "1", "G" * 64, "0" * 63 + "/", "../" * 20):
        assert error_of(gateway.http.post(VERSIONS, json={"source": f"sha256:{bad}"})) == (400, "invalid_source")


def test_an_archive_on_the_server_counts_below_the_opened_folders_only(start: Start, tmp_path: Path) -> None:
    packed = tgz_bytes(entries_of(write_adapter(tmp_path / "a")))
    opened = tmp_path / "opened"
    opened.mkdir()
    for path in (opened / "poet.tgz", tmp_path / "poet.tgz"):
        path.write_bytes(packed)
    (opened / "link.tgz").symlink_to(tmp_path / "poet.tgz")
    with start(source_roots=(opened,)) as gateway:
        assert gateway.http.post(VERSIONS, json={"source": str(opened / "poet.tgz")}).status_code == 201
        for closed in (tmp_path / "poet.tgz", opened / "link.tgz", opened / "\0", "x" * 5000):
            assert error_of(gateway.http.post(VERSIONS, json={"source": str(closed)})) == (403, "source_refused")
        assert left_behind(gateway) == []


@pytest.mark.parametrize("source", ["hf://org/repo", "https://models.example/a.tgz", "s3://bucket/a", "gs://b/c"])
def test_as_it_comes_the_server_fetches_nothing_from_anywhere(gateway: Gateway, source: str) -> None:
    answer = gateway.http.post(VERSIONS, json={"source": source})
    assert error_of(answer) == (403, "source_refused")
    assert "LORADOCK_SOURCE_PREFIXES" in answer.json()["error"]["message"]


@pytest.mark.parametrize("source", ["file:///etc/passwd", "zip://x::http://h/y", "https://h/../x", "ftp:x", "https://"])
def test_a_uri_that_makes_no_sense_is_400(gateway: Gateway, source: str) -> None:
    assert error_of(gateway.http.post(VERSIONS, json={"source": source})) == (400, "invalid_source")


def test_prefixes_are_settings_that_are_judged_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORADOCK_SOURCE_PREFIXES", "hf://my-org, s3://bucket/adapters https://models.example:8443/a")
    assert len(load_settings().source_prefixes) == 3
    for bad in ("https://", "file:///srv", "my-org", "s3://a/../b"):
        with pytest.raises(SettingsError, match="source_prefixes"):
            load_settings(source_prefixes=bad)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(retries, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(retries, "LONGEST_PAUSE_SECONDS", 0.01)
    with running_web() as server:
        yield server


def source_of(gateway: Gateway, name: str) -> str:
    source: str = gateway.http.get(f"/admin/adapters/{name}").json()["versions"][0]["source"]
    return source


def test_the_server_fetches_an_open_address_and_keeps_where_it_was_without_the_signature(
    start: Start, web: Web, tmp_path: Path
) -> None:
    packed = tgz_bytes(entries_of(write_adapter(tmp_path / "a"), below="a/"))
    address = web.on("/models/a.tgz", status(503), file(packed, cut=300, etag='"1"'), file(packed, etag='"1"'))
    web.on("/models/moved.tgz", redirect("/elsewhere/a.tgz"))
    with start(source_prefixes=(f"{web.url}/models",)) as gateway:
        answer = gateway.http.post(VERSIONS, json={"source": f"{address}?X-Signature=secret"})
        assert (answer.status_code, answer.json()["id"]) == (201, "poet@1")
        assert source_of(gateway, "poet") == address
        assert "secret" not in gateway.http.get("/admin/audit").text
        away = gateway.http.post(VERSIONS, json={"source": f"{web.url}/models/moved.tgz"})
        assert error_of(away) == (403, "source_refused")
        assert "a redirect from" in away.json()["error"]["message"]
        for path, code in (("/models/none.tgz", (404, "source_not_found")), ("/other/a.tgz", (403, "source_refused"))):
            assert error_of(gateway.http.post(VERSIONS, json={"source": web.url + path})) == code
        web.on("/models/down.tgz", status(503))
        down = gateway.http.post(VERSIONS, json={"source": f"{web.url}/models/down.tgz"})
        assert error_of(down) == (502, "source_unavailable")
        assert left_behind(gateway) == []


def test_the_server_fetches_from_a_hub_and_keeps_the_commit(
    start: Start, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    publish(web, "org/poet", files_of(write_adapter(tmp_path / "a")), token="hf_secret")
    with start(source_prefixes=("hf://org",)) as gateway:
        answer = gateway.http.post(VERSIONS, json={"source": "hf://org/poet@main"})
        assert (answer.status_code, answer.json()["id"]) == (201, "poet@1")
        assert source_of(gateway, "poet") == f"hf://org/poet@{COMMIT}"


def test_the_server_fetches_from_a_bucket(
    start: Start, seaweed: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    bucket = seaweed.new_bucket()
    for name, data in files_of(write_adapter(tmp_path / "a")).items():
        obstore.put(seaweed.store(bucket), f"team/poet/{name}", data)
    with start(source_prefixes=(f"s3://{bucket}/team",)) as gateway:
        answer = gateway.http.post(VERSIONS, json={"source": f"s3://{bucket}/team/poet"})
        assert (answer.status_code, source_of(gateway, "poet")) == (201, f"s3://{bucket}/team/poet")


def test_requests_are_answered_while_sources_stall_and_a_stop_ends_them(start: Start, web: Web, tmp_path: Path) -> None:
    """More of them than the loop has common threads; none is left when the gateway stops."""
    gate = threading.Event()
    packed = tgz_bytes(entries_of(write_adapter(tmp_path / "a")))
    address = web.on("/a.tgz", stall(gate, packed, after=100))
    try:
        with start(source_prefixes=(address,), drain_timeout=0) as gateway:
            count = min(32, (os.cpu_count() or 1) + 4) + 2
            for index in range(count):
                answer = gateway.http.post(
                    f"/admin/adapters/a{index}/versions", json={"source": address}, headers={"prefer": "respond-async"}
                )
                assert answer.status_code == 202, answer.text
            eventually(lambda: len(web.asked) == count)
            assert gateway.upload("poet", {"a.tgz": packed}).status_code == 201
            gateway.stop()
            gate.set()
            gateway.wait_stopped()
            eventually(lambda: left_behind(gateway) == [])
    finally:
        gate.set()
