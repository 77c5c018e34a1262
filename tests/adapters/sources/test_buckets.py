"""s3:// against a real S3-compatible server, and another file system through fsspec."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import obstore
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from loradock_adapters.errors import (
    ArchiveRefused,
    SourceForbidden,
    SourceInvalid,
    SourceMissing,
    SourceTooLarge,
    SourceUnavailable,
)
from tests.adapters.making import write_adapter
from tests.adapters.sources.packing import contents, entries_of, tgz_bytes
from tests.adapters.sources.test_web import got, open_for
from tests.fakes.web import Web, file, stall, status
from tests.seaweed import Seaweed


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    return dict(contents(write_adapter(tmp_path / "adapter")))


@pytest.fixture
def bucket(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    return seaweed.new_bucket()


def put(seaweed: Seaweed, bucket: str, objects: dict[str, bytes]) -> None:
    store = seaweed.store(bucket)
    for key, data in objects.items():
        obstore.put(store, key, data)


def test_a_folder_in_a_bucket_gives_its_adapters_files_only(
    seaweed: Seaweed, bucket: str, tmp_path: Path, files: dict[str, bytes]
) -> None:
    big = files | {"README.md": bytes(range(256)) * 5000}
    others = {"optimizer.pt": b"x" * 5000, "checkpoint-1/adapter_config.json": b"{}"}
    put(seaweed, bucket, {f"team/mine/{name}": data for name, data in (big | others).items()})
    put(seaweed, bucket, {"team/mine-too/adapter_config.json": b"other"})
    heard: list[tuple[int, int | None]] = []
    rules = open_for(f"s3://{bucket}/team")
    with got(f"s3://{bucket}/team/mine", tmp_path, rules, progress=lambda *now: heard.append(now)) as found:
        assert contents(found.folder) == big
        assert found.origin == f"s3://{bucket}/team/mine"
    total = sum(len(data) for data in big.values())
    assert (heard[0], heard[-1]) == ((0, total), (total, total))


def test_an_adapter_may_be_the_whole_bucket(
    seaweed: Seaweed, bucket: str, tmp_path: Path, files: dict[str, bytes]
) -> None:
    put(seaweed, bucket, files)
    with got(f"s3://{bucket}", tmp_path) as found:
        assert contents(found.folder) == files


def test_an_archive_in_a_bucket_is_unpacked_and_its_sha256_compared(
    seaweed: Seaweed, bucket: str, tmp_path: Path, files: dict[str, bytes]
) -> None:
    packed = tgz_bytes(entries_of(tmp_path / "adapter", below="top/"))
    put(seaweed, bucket, {"a/mine.tar.gz": packed})
    source = f"s3://{bucket}/a/mine.tar.gz#sha256="
    with got(source + hashlib.sha256(packed).hexdigest(), tmp_path) as found:
        assert contents(found.folder) == files
        assert found.origin == f"s3://{bucket}/a/mine.tar.gz"
    with pytest.raises(ArchiveRefused, match="its address says"), got(source + "0" * 64, tmp_path):
        pass


def test_what_is_not_in_the_bucket_is_not_there(seaweed: Seaweed, bucket: str, tmp_path: Path) -> None:
    missing = (f"{bucket}/none", f"{bucket}/none.tgz", "no-such-bucket/a", "no-such-bucket/a.tgz")
    for source in (f"s3://{name}" for name in missing):
        with pytest.raises(SourceMissing), got(source, tmp_path):
            pass


def test_a_key_that_may_not_read_is_refused(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody-else")
    for source in (f"s3://{bucket}/a", f"s3://{bucket}/a.tgz"):
        with pytest.raises(SourceUnavailable, match="environment"), got(source, tmp_path):
            pass


def test_limits_and_the_list_hold_for_buckets_too(seaweed: Seaweed, bucket: str, tmp_path: Path) -> None:
    put(seaweed, bucket, {"big/adapter_config.json": b"{}", "big/adapter_model.safetensors": bytes(6 << 20)})
    put(seaweed, bucket, {"big.tgz": bytes(6 << 20)})
    rules = open_for(f"s3://{bucket}/big", f"s3://{bucket}/big.tgz", max_bytes=1 << 20)
    for name in ("big", "big.tgz"):
        heard: list[int] = []
        refused = pytest.raises(SourceTooLarge)
        with (
            refused,
            got(f"s3://{bucket}/{name}", tmp_path, rules, progress=lambda done, _, told=heard: told.append(done)),
        ):
            pass
        assert heard == []
    with pytest.raises(SourceForbidden), got(f"s3://{bucket}/bigger", tmp_path / "x", rules):
        pass


@pytest.fixture
def trouble(web: Web, monkeypatch: pytest.MonkeyPatch) -> Web:
    """An endpoint that is none of S3's best; requests are signed, and nobody looks."""
    for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_REGION": "z"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", web.url)
    return web


DATE = "Thu, 26 Nov 2026 09:00:00 GMT"


def test_an_object_that_breaks_off_goes_on_where_it_was(trouble: Web, tmp_path: Path, files: dict[str, bytes]) -> None:
    packed = tgz_bytes(entries_of(tmp_path / "adapter"))
    cut = file(packed, cut=200, etag='"1"', last_modified=DATE)
    trouble.on("/bucket/a.tgz", status(503), cut, cut, cut, file(packed, etag='"1"', last_modified=DATE))
    with got("s3://bucket/a.tgz", tmp_path) as found:
        assert contents(found.folder) == files
    gets = [asked.headers for asked in trouble.asked if asked.method == "GET"]
    assert [headers.get("range") for headers in gets] == [None, "bytes=200-", "bytes=400-"]
    assert {headers["if-match"] for headers in gets} == {'"1"'}


def test_a_stalled_endpoint_ends_at_the_timeout_and_one_in_trouble_is_given_up(trouble: Web, tmp_path: Path) -> None:
    gate = threading.Event()
    trouble.on("/bucket/a.tgz", stall(gate, bytes(5000), after=0))
    try:
        ended = pytest.raises(SourceUnavailable, match="LORADOCK_SOURCE_TIMEOUT")
        with ended, got("s3://bucket/a.tgz", tmp_path, open_for("s3://bucket", timeout=0.5, silence=0.2)):
            pass
    finally:
        gate.set()
    trouble.on("/bucket", status(500))
    with pytest.raises(SourceUnavailable, match="500.*; tried 5 times"), got("s3://bucket/a", tmp_path):
        pass


class Elsewhere(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A file system that fsspec knows by name, and that fails as often as a test wants."""

    protocol = "elsewhere"
    store: dict[str, object] = {}
    pseudo_dirs = [""]
    failures = 0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("elsewhere://").strip("/")

    def open(self, path: str, *arguments: object, **options: object) -> object:
        if Elsewhere.failures:
            Elsewhere.failures -= 1
            raise OSError("a passing trouble")
        return super().open(path, *arguments, **options)


@pytest.fixture
def elsewhere(files: dict[str, bytes]) -> Iterator[type[Elsewhere]]:
    fsspec.register_implementation("elsewhere", Elsewhere, clobber=True)
    system = Elsewhere()
    for name, data in files.items():
        system.pipe(f"/share/mine/{name}", data)
    system.pipe("/share/mine/optimizer.pt", b"x")
    yield Elsewhere
    Elsewhere.failures = 0
    Elsewhere.store.clear()


def test_any_file_system_that_fsspec_knows_is_a_source(
    elsewhere: type[Elsewhere], tmp_path: Path, files: dict[str, bytes]
) -> None:
    elsewhere.failures = 2
    with got("elsewhere://share/mine", tmp_path, open_for("elsewhere://share")) as found:
        assert contents(found.folder) == files
        assert found.origin == "elsewhere://share/mine"


def test_an_archive_there_is_unpacked_too(elsewhere: type[Elsewhere], tmp_path: Path, files: dict[str, bytes]) -> None:
    elsewhere().pipe("/share/mine.tgz", tgz_bytes(entries_of(tmp_path / "adapter")))
    with got("elsewhere://share/mine.tgz", tmp_path) as found:
        assert contents(found.folder) == files
    with pytest.raises(SourceMissing), got("elsewhere://share/none.tgz", tmp_path):
        pass


def test_a_file_system_that_stays_in_trouble_is_given_up(elsewhere: type[Elsewhere], tmp_path: Path) -> None:
    elsewhere.failures = 99
    with pytest.raises(SourceUnavailable, match="a passing trouble; tried 5"), got("elsewhere://share/mine", tmp_path):
        pass


def test_a_scheme_that_nobody_knows_or_whose_package_is_missing_says_so(tmp_path: Path) -> None:
    for source in ("nonsense://a/b", "gs://bucket/a"):
        with pytest.raises(SourceInvalid, match="cannot be used"), got(source, tmp_path):
            pass
