"""Archives from web addresses, on a server that does all that servers do to downloads."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from loradock_adapters.errors import (
    ArchiveRefused,
    SourceForbidden,
    SourceMissing,
    SourceRefused,
    SourceTooLarge,
    SourceUnavailable,
)
from loradock_adapters.sources import AllowList, Fetched, SourceLimits, SourceRules, fetched, retries
from tests.adapters.making import write_adapter
from tests.adapters.sources.packing import contents, entries_of, tgz_bytes, zip_bytes
from tests.fakes.web import Web, file, redirect, stall, status


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter")


@pytest.fixture
def packed(adapter: Path) -> bytes:
    (adapter / "README.md").write_bytes(bytes(range(256)) * 2000)  # so that there is something to cut
    return tgz_bytes(entries_of(adapter))


@contextmanager
def got(source: str, parent: Path, rules: SourceRules | None = None, **options: object) -> Iterator[Fetched]:
    """Fetch below `parent`, and find that nothing is left of it."""
    parent = parent / "scratch"
    try:
        with fetched(source, rules or SourceRules(), parent=parent, **options) as found:  # type: ignore[arg-type]
            yield found
    finally:
        assert list(parent.iterdir()) == []


def open_for(*prefixes: str, **limits: float) -> SourceRules:
    return SourceRules(AllowList.of(prefixes), limits=SourceLimits(**limits))  # type: ignore[arg-type]


def test_an_archive_is_fetched_with_its_progress(web: Web, tmp_path: Path, adapter: Path, packed: bytes) -> None:
    heard: list[tuple[int, int | None]] = []
    address = web.on("/a/adapter.tar.gz", file(packed))
    with got(f"{address}?signature=secret", tmp_path, progress=lambda *now: heard.append(now)) as found:
        assert contents(found.folder) == contents(adapter)
        assert found.origin == address
    assert heard[0] == (0, len(packed))
    assert heard[-1] == (len(packed), len(packed))
    assert [done for done, _ in heard] == sorted(done for done, _ in heard)
    assert web.asked[0].query == "signature=secret"
    assert "authorization" not in web.asked[0].headers


def test_a_download_that_breaks_off_goes_on_where_it_was(
    web: Web, tmp_path: Path, adapter: Path, packed: bytes
) -> None:
    version = '"v1"'
    cuts = [file(packed, cut=100, etag=version) for _ in range(8)]  # more often than it would try in vain
    address = web.on("/a.tgz", *cuts, file(packed, etag=version))
    with got(address, tmp_path) as found:
        assert contents(found.folder) == contents(adapter)
    ranges = [asked.headers.get("range") for asked in web.asked]
    assert ranges == [None, *(f"bytes={100 * part}-" for part in range(1, 9))]
    assert {asked.headers.get("if-range") for asked in web.asked[1:]} == {version}


def test_when_the_bytes_changed_meanwhile_it_begins_anew(
    web: Web, tmp_path: Path, adapter: Path, packed: bytes
) -> None:
    address = web.on("/a.tgz", file(b"\x1f\x8b" + bytes(5000), cut=1000, etag='"v1"'), file(packed, etag='"v2"'))
    with got(address, tmp_path) as found:
        assert contents(found.folder) == contents(adapter)


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_without_a_way_to_tell_versions_apart_it_begins_anew(
    web: Web, tmp_path: Path, adapter: Path, packed: bytes, etag: str
) -> None:
    address = web.on("/a.tgz", file(packed, cut=1000, etag=etag), file(packed, etag=etag))
    with got(address, tmp_path) as found:
        assert contents(found.folder) == contents(adapter)
    assert "range" not in web.asked[1].headers


def test_a_server_without_ranges_sends_it_all_again(web: Web, tmp_path: Path, adapter: Path, packed: bytes) -> None:
    address = web.on("/a.tgz", file(packed, cut=1000, etag='"1"'), file(packed, ranges=False, etag='"1"'))
    with got(address, tmp_path) as found:
        assert contents(found.folder) == contents(adapter)


def test_a_part_that_nobody_asked_for_is_not_taken(web: Web, tmp_path: Path, adapter: Path, packed: bytes) -> None:
    wrong = status(206, packed[500:], content_range=f"bytes 500-{len(packed) - 1}/{len(packed)}", etag='"1"')
    address = web.on("/a.tgz", file(packed, cut=1000, etag='"1"'), wrong, file(packed, etag='"1"'))
    with got(address, tmp_path) as found:
        assert contents(found.folder) == contents(adapter)
    assert [asked.headers.get("range") for asked in web.asked] == [None, "bytes=1000-", None]


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_a_server_in_trouble_is_asked_again(web: Web, tmp_path: Path, adapter: Path, packed: bytes, code: int) -> None:
    address = web.on("/a.tgz", status(code, retry_after="1"), status(code), file(packed))
    with got(address, tmp_path) as found:
        assert contents(found.folder) == contents(adapter)


def test_a_server_that_stays_in_trouble_is_given_up(web: Web, tmp_path: Path) -> None:
    address = web.on("/a.tgz", status(503))
    with pytest.raises(SourceUnavailable, match=r"answered 503; tried 5 times"), got(address, tmp_path):
        pass
    assert len(web.asked) == retries.ATTEMPTS


def test_nobody_there_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match="tried 5 times"), got("http://127.0.0.1:1/a.tgz", tmp_path):
        pass


@pytest.mark.parametrize(
    ("code", "kind"), [(404, SourceMissing), (410, SourceMissing), (401, SourceUnavailable), (403, SourceUnavailable)]
)
def test_a_no_is_not_asked_twice(web: Web, tmp_path: Path, code: int, kind: type[SourceRefused]) -> None:
    address = web.on("/a.tgz", status(code))
    with pytest.raises(kind, match=str(code)), got(f"{address}?secret", tmp_path):
        pass
    assert len(web.asked) == 1


def test_an_announced_size_over_the_limit_is_refused_before_a_byte_is_taken(web: Web, tmp_path: Path) -> None:
    heard: list[int] = []
    address = web.on("/a.tgz", file(bytes(6 << 20)))
    rules = open_for(web.url + "/a.tgz", max_bytes=1 << 20)
    refused = pytest.raises(SourceTooLarge, match="LORADOCK_MAX_ADAPTER_BYTES")
    with refused, got(address, tmp_path, rules, progress=lambda done, total: heard.append(done)):
        pass
    assert heard == []


def test_a_size_nobody_announced_is_counted(web: Web, tmp_path: Path) -> None:
    def endless(handler: object) -> None:
        handler.send_response(200)  # type: ignore[attr-defined]
        handler.send_header("connection", "close")  # type: ignore[attr-defined]
        handler.end_headers()  # type: ignore[attr-defined]
        handler.close_connection = True  # type: ignore[attr-defined]
        try:
            while True:
                handler.wfile.write(bytes(1 << 16))  # type: ignore[attr-defined]
        except OSError:
            return

    address = web.on("/a.tgz", endless)
    with pytest.raises(SourceTooLarge), got(address, tmp_path, open_for(web.url + "/a.tgz", max_bytes=1 << 20)):
        pass


def test_a_stalled_server_ends_at_the_timeout(web: Web, tmp_path: Path, packed: bytes) -> None:
    gate = threading.Event()
    address = web.on("/a.tgz", stall(gate, packed, after=1000))
    try:
        ended = pytest.raises(SourceUnavailable, match="LORADOCK_SOURCE_TIMEOUT")
        with ended, got(address, tmp_path, open_for(web.url + "/a.tgz", timeout=0.3, silence=0.2)):
            pass
    finally:
        gate.set()


def test_a_fetch_can_be_ended_from_another_thread(web: Web, tmp_path: Path, packed: bytes) -> None:
    stop = threading.Event()
    address = web.on("/a.tgz", file(packed))
    ended = pytest.raises(SourceUnavailable, match="cancelled")
    with ended, got(address, tmp_path, progress=lambda *_: stop.set(), stop=stop):
        pass


def test_the_sha256_in_the_address_must_be_that_of_the_bytes(
    web: Web, tmp_path: Path, adapter: Path, packed: bytes
) -> None:
    address = web.on("/a.tgz", file(packed))
    with got(f"{address}#sha256={hashlib.sha256(packed).hexdigest()}", tmp_path) as found:
        assert contents(found.folder) == contents(adapter)
    with pytest.raises(ArchiveRefused, match="its address says 0000"), got(f"{address}#sha256={'0' * 64}", tmp_path):
        pass


def test_a_login_page_is_no_archive(web: Web, tmp_path: Path) -> None:
    address = web.on("/a.tgz", status(200, b"<html>please log in" * 40))
    with pytest.raises(ArchiveRefused, match="begins with b'<htm'"), got(address, tmp_path):
        pass


def test_redirects_are_followed_where_the_list_allows(web: Web, tmp_path: Path, adapter: Path, packed: bytes) -> None:
    web.on("/files/b.tgz", file(packed))
    relative = web.on("/files/a.tgz", redirect("b.tgz", 301))
    rules = open_for(f"{web.url}/files")
    with got(relative, tmp_path, rules) as found:
        assert contents(found.folder) == contents(adapter)
        assert found.origin == relative


@pytest.mark.parametrize(
    "to",
    [
        "/private/a.tgz",
        "/files/../private/a.tgz",
        "/files/%2e%2e/private/a.tgz",
        "//127.0.0.1:1/files/a.tgz",
        "http://169.254.169.254/latest/meta-data",
        "http://localhost/files/a.tgz",
        "file:///etc/passwd",
        "s3://bucket/files/a.tgz",
        "ftp://host/files/a",
        "",
        "http://user@127.0.0.1/files/a.tgz",
    ],
)
def test_a_redirect_out_of_the_list_is_not_followed(web: Web, tmp_path: Path, packed: bytes, to: str) -> None:
    web.on("/private/a.tgz", file(packed))
    address = web.on("/files/a.tgz", redirect(to))
    with pytest.raises(SourceRefused), got(address, tmp_path, open_for(f"{web.url}/files")):
        pass
    assert all(asked.path == "/files/a.tgz" for asked in web.asked)


def test_redirects_in_a_circle_end(web: Web, tmp_path: Path) -> None:
    address = web.on("/a.tgz", redirect("/a.tgz"))
    with pytest.raises(SourceUnavailable, match="at most 5"), got(address, tmp_path):
        pass
    assert len(web.asked) == 6


def test_what_is_not_on_the_list_is_not_even_asked(web: Web, tmp_path: Path, packed: bytes) -> None:
    address = web.on("/b/a.tgz", file(packed))
    with pytest.raises(SourceForbidden), fetched(address, open_for(f"{web.url}/a"), parent=tmp_path / "scratch"):
        pass
    assert web.asked == []


def test_the_name_may_lie_about_the_format(web: Web, tmp_path: Path, adapter: Path) -> None:
    address = web.on("/download", file(zip_bytes(entries_of(adapter, below="top/"))))
    with got(address, tmp_path) as found:
        assert contents(found.folder) == contents(adapter)
