"""Archives as strangers send them: good ones come out as they went in, bad ones do nothing but be refused."""

from __future__ import annotations

import gzip
import os
import random
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loradock_adapters.errors import ArchiveRefused, SourceRefused, SourceTooLarge
from loradock_adapters.sources.archive import has_archive_name, unpack
from loradock_adapters.sources.limits import SourceLimits
from tests.adapters.making import write_adapter
from tests.adapters.sources.packing import (
    contents,
    entries_of,
    mode_entry,
    special,
    tar_bytes,
    tgz_bytes,
    zip_bytes,
)

LIMITS = SourceLimits(max_bytes=1 << 20, max_entries=20)
LONG_TESTS = bool(os.environ.get("LONG_TESTS"))
A = ("adapter_config.json", b"{}")
_PACKERS: tuple[Callable[..., bytes], ...] = (tar_bytes, tgz_bytes, zip_bytes)


def unpacked(tmp_path: Path, data: bytes, limits: SourceLimits = LIMITS) -> Path:
    archive = tmp_path / "sent"
    archive.write_bytes(data)
    return unpack(archive, tmp_path / "out", limits)


@pytest.mark.parametrize("pack", [tar_bytes, tgz_bytes, zip_bytes])
@pytest.mark.parametrize("below", ["", "./", "my-adapter/", "./my-adapter/"])
def test_an_adapter_comes_out_as_it_went_in_with_or_without_a_folder_around_it(
    tmp_path: Path, pack: Callable[..., bytes], below: str
) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    folder = unpacked(tmp_path, pack(entries_of(adapter, below=below)))
    assert contents(folder) == contents(adapter)


def test_names_longer_than_a_tar_header_and_folders_of_their_own_are_fine(tmp_path: Path) -> None:
    name = "x" * 200
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = tmp_path / str(kind)
        out.mkdir()
        data = tar_bytes([special("deep", tarfile.DIRTYPE), (f"deep/{name}", b"1"), A], format=kind)
        assert contents(unpacked(out, data)) == {f"deep/{name}": b"1", A[0]: A[1]}


@pytest.mark.parametrize("pack", [tgz_bytes, zip_bytes])
def test_what_desktops_leave_behind_is_left_out(tmp_path: Path, pack: Callable[..., bytes]) -> None:
    junk = [("__MACOSX/top/._adapter_config.json", b"1"), ("top/.DS_Store", b"2"), ("top/._x", b"3")]
    folder = unpacked(tmp_path, pack([*junk, (f"top/{A[0]}", A[1])]))
    assert contents(folder) == dict([A])
    assert folder.name == "top"


def test_modes_and_owners_of_an_archive_mean_nothing(tmp_path: Path) -> None:
    header = special(A[0], tarfile.REGTYPE, mode=0o7777, uid=0, gid=0)
    folder = unpacked(tmp_path, tar_bytes([header]))
    assert stat.S_IMODE((folder / A[0]).stat().st_mode) & 0o7111 == 0


_OUTSIDE = ["../x", "a/../../x", "/etc/x", "C:/x", "..", "a\\..\\x", "x\ny", "x\x1b[2Jy", "x\u202ey"]


@pytest.mark.parametrize("pack", [tar_bytes, tgz_bytes, zip_bytes])
@pytest.mark.parametrize("name", _OUTSIDE)
def test_names_that_lead_out_or_cannot_be_printed_are_refused(
    tmp_path: Path, pack: Callable[..., bytes], name: str
) -> None:
    with pytest.raises(ArchiveRefused) as refusal:
        unpacked(tmp_path, pack([A, (name, b"1")]))
    assert str(refusal.value).isprintable()
    assert {path.name for path in tmp_path.iterdir()} <= {"sent", "out"}


@pytest.mark.parametrize("pack", [tar_bytes, zip_bytes])
@pytest.mark.parametrize("names", [("a", "a"), ("a", "./a"), ("a", "a/b"), ("a/b", "a"), ("a//b", "a/b")])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_comes_twice_is_refused(tmp_path: Path, pack: Callable[..., bytes], names: tuple[str, str]) -> None:
    with pytest.raises(ArchiveRefused, match="twice"):
        unpacked(tmp_path, pack([(name, b"1") for name in names]))


@pytest.mark.parametrize(
    ("header", "what"),
    [
        (special("x", tarfile.SYMTYPE, "/etc/passwd"), "a link to '/etc/passwd'"),
        (special("x", tarfile.LNKTYPE, A[0]), "a link to"),
        (special("x", tarfile.CHRTYPE), "a device"),
        (special("x", tarfile.BLKTYPE), "a device"),
        (special("x", tarfile.FIFOTYPE), "a device or pipe"),
        (special("x", tarfile.GNUTYPE_SPARSE), "sparse"),
    ],
)
def test_a_tar_entry_that_is_no_plain_file_or_folder_is_refused(
    tmp_path: Path, header: tarfile.TarInfo, what: str
) -> None:
    with pytest.raises(ArchiveRefused, match=what):
        unpacked(tmp_path, tar_bytes([A, header]))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_a_zip_entry_that_is_no_plain_file_or_folder_is_refused(tmp_path: Path, kind: int) -> None:
    with pytest.raises(ArchiveRefused, match="a link or a device"):
        unpacked(tmp_path, zip_bytes([A, (mode_entry("x", kind | 0o777), b"/etc/passwd")]))


def test_an_encrypted_or_strangely_packed_zip_is_refused(tmp_path: Path) -> None:
    data = bytearray(zip_bytes([A]))
    directory = data.index(b"PK\x01\x02")
    data[directory + 8] |= 1
    with pytest.raises(ArchiveRefused, match="without a password"):
        unpacked(tmp_path, bytes(data))
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(ArchiveRefused, match="method 14"):
        unpacked(other, zip_bytes([A], method=zipfile.ZIP_LZMA))


def test_a_zip_whose_entries_share_bytes_is_refused(tmp_path: Path) -> None:
    data = bytearray(zip_bytes([("a", b"1" * 100), ("b", b"1" * 100)], method=zipfile.ZIP_STORED))
    second = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    data[second + 42 : second + 46] = struct.pack("<I", 0)
    with pytest.raises(ArchiveRefused, match="shares bytes"):
        unpacked(tmp_path, bytes(data))


def test_a_zip_name_with_a_hidden_end_is_refused(tmp_path: Path) -> None:
    data = zip_bytes([("adapter_config.jsonX.exe", b"{}")]).replace(b"jsonX.exe", b"json\0.exe")
    with pytest.raises(ArchiveRefused, match="zero byte"):
        unpacked(tmp_path, data)


def bomb(size: int) -> bytes:
    return tgz_bytes([("adapter_model.safetensors", bytes(size))])


def test_a_bomb_is_refused_before_it_is_written(tmp_path: Path) -> None:
    limits = SourceLimits(max_bytes=1 << 30)
    with pytest.raises(ArchiveRefused, match="weights hardly shrink"):
        unpacked(tmp_path, bomb(32 << 20), limits)
    assert sum(path.stat().st_size for path in (tmp_path / "out").rglob("*")) < 8 << 20


def test_a_zip_bomb_is_refused_by_what_its_directory_says(tmp_path: Path) -> None:
    with pytest.raises(ArchiveRefused, match="weights hardly shrink"):
        unpacked(tmp_path, zip_bytes([("x", bytes(32 << 20))]), SourceLimits(max_bytes=1 << 30))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_zip_that_understates_its_size_gives_no_more_than_it_said(tmp_path: Path) -> None:
    data = bytearray(zip_bytes([("x", random.Random(1).randbytes(100_000))]))
    directory = data.index(b"PK\x01\x02")
    data[directory + 24 : directory + 28] = struct.pack("<I", 10)
    with pytest.raises(ArchiveRefused, match="cannot be read"):
        unpacked(tmp_path, bytes(data))


def test_a_zip_that_overstates_its_size_is_refused(tmp_path: Path) -> None:
    data = bytearray(zip_bytes([("x", b"1" * 50)]))
    directory = data.index(b"PK\x01\x02")
    data[directory + 24 : directory + 28] = struct.pack("<I", 60)
    with pytest.raises(ArchiveRefused, match="says it has 60 bytes and has 50"):
        unpacked(tmp_path, bytes(data))


@pytest.mark.parametrize("pack", [tar_bytes, tgz_bytes, zip_bytes])
def test_more_bytes_than_allowed_are_refused_with_the_setting(tmp_path: Path, pack: Callable[..., bytes]) -> None:
    half = random.Random(1).randbytes(600_000)
    with pytest.raises(SourceTooLarge, match="LORADOCK_MAX_ADAPTER_BYTES"):
        unpacked(tmp_path, pack([("a", half), ("b", half)]))
    assert not (tmp_path / "out" / "b").exists(), "what is announced is believed, if it is too much"


@pytest.mark.parametrize("pack", [tar_bytes, tgz_bytes, zip_bytes])
def test_more_entries_than_allowed_are_refused_whatever_they_are(tmp_path: Path, pack: Callable[..., bytes]) -> None:
    with pytest.raises(SourceTooLarge, match="more than 20 entries"):
        unpacked(tmp_path, pack([(f"__MACOSX/{index}", b"") for index in range(21)]))


@pytest.mark.parametrize("name", ["/".join("abcdefghi"), "x" * 300, "/".join(["x" * 200] * 3)])
def test_names_too_long_or_too_deep_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArchiveRefused, match=r"at most|between two slashes"):
        unpacked(tmp_path, tar_bytes([A, (name, b"1")]))


def test_headers_that_tarfile_would_take_into_memory_are_refused_first(tmp_path: Path) -> None:
    for kind in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
        out = tmp_path / f"{kind.hex()}"
        out.mkdir()
        header = special("x", kind, size=16 << 20)
        data = gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(16 << 20))
        tracemalloc.start()
        try:
            with pytest.raises(ArchiveRefused, match="a header in it has 16777216 bytes"):
                unpacked(out, data, SourceLimits(max_bytes=1 << 30))
            assert tracemalloc.get_traced_memory()[1] < 8 << 20
        finally:
            tracemalloc.stop()


def test_a_directory_that_zipfile_would_take_into_memory_is_refused_first(tmp_path: Path) -> None:
    data = bytearray(zip_bytes([A]) + bytes(100))
    end = data.index(b"PK\x05\x06")
    padded = bytes(data[:end]) + bytes(8 << 20) + bytes(data[end : end + 22])
    lying = bytearray(padded)
    lying[-10:-6] = struct.pack("<I", len(padded) - 22)  # the directory's size: all of it
    lying[-6:-2] = struct.pack("<I", 0)
    with pytest.raises(ArchiveRefused, match="its directory has"):
        unpacked(tmp_path, bytes(lying), SourceLimits(max_bytes=1 << 30))


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_negative_size_does_not_send_the_reader_backwards(tmp_path: Path, kind: bytes) -> None:
    header = bytearray(special("x", kind).tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 11 + b"\x00"  # -256, in base 256
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(ArchiveRefused, match="-256 bytes"):
        unpacked(tmp_path, bytes(header) + bytes(1024))


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize("pack", [tar_bytes, tgz_bytes, zip_bytes])
def test_an_archive_that_ends_early_is_refused(tmp_path: Path, pack: Callable[..., bytes]) -> None:
    whole = pack([A, ("adapter_model.safetensors", random.Random(1).randbytes(50_000))])
    with pytest.raises(ArchiveRefused):
        unpacked(tmp_path, _cut(whole))


def test_a_tar_that_ends_between_two_entries_is_refused_too(tmp_path: Path) -> None:
    with pytest.raises(ArchiveRefused, match="ends early"):
        unpacked(tmp_path, tar_bytes([A])[:1024])


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    data = bytearray(tar_bytes([A, ("b", b"1")]))
    data[1024 + 5] ^= 0xFF
    with pytest.raises(ArchiveRefused, match="damaged"):
        unpacked(tmp_path, bytes(data))


def test_a_flipped_bit_in_packed_bytes_is_noticed_by_the_checksum(tmp_path: Path) -> None:
    for position, pack in enumerate(_PACKERS[1:]):
        out = tmp_path / str(position)
        out.mkdir()
        data = bytearray(pack([("a", random.Random(1).randbytes(50_000))]))
        data[20_000] ^= 1
        with pytest.raises(ArchiveRefused, match="cannot be read"):
            unpacked(out, bytes(data))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "only tar"),
        (b"\xfd7zXZ\0", "only tar"),
        (b"\x28\xb5\x2f\xfd" + bytes(600), "only tar"),
        (gzip.compress(b"not a tar" * 100, mtime=0), "damaged|cannot be read"),
        (zip_bytes([]), "no files"),
        (tar_bytes([]), "only tar"),
        (tar_bytes([("__MACOSX/x", b"1")]), "no files"),
    ],
)
def test_what_is_no_archive_or_an_empty_one_is_refused(tmp_path: Path, data: bytes, why: str) -> None:
    with pytest.raises(ArchiveRefused, match=why):
        unpacked(tmp_path, data)


def test_a_pipe_instead_of_an_archive_does_not_make_anybody_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "sent")
    with pytest.raises(OSError, match="not a regular file"):
        unpack(tmp_path / "sent", tmp_path / "out", LIMITS)


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("a.tar.gz", True), ("A.TGZ", True), ("a.tar", True), ("a.zip", True), ("zip", False), ("a.gz", False)],
)
def test_archives_are_known_by_the_end_of_their_name(name: str, is_one: bool) -> None:
    assert has_archive_name(name) is is_one


_SEEDS = [pack([A, ("top/adapter_model.safetensors", b"\x10" * 700), ("b" * 120, b"2")]) for pack in _PACKERS]


@settings(
    max_examples=3000 if LONG_TESTS else 300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    seed=st.sampled_from(_SEEDS),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=12)), max_size=6),
    end=st.floats(0.2, 1.5),
)
def test_whatever_is_changed_in_an_archive_it_is_unpacked_inside_or_refused(
    tmp_path_factory: pytest.TempPathFactory, seed: bytes, changes: list[tuple[float, bytes]], end: float
) -> None:
    data = bytearray(seed)
    for where, new in changes:
        at = int(where * len(data))
        data[at : at + len(new)] = new
    folder = tmp_path_factory.mktemp("fuzz", numbered=True)
    try:
        unpacked(folder, bytes(data[: int(end * len(data))]))
    except SourceRefused as refusal:
        assert str(refusal).isprintable()  # noqa: PT017
    assert {path.name for path in folder.iterdir()} <= {"sent", "out"}
    assert not any(path.is_symlink() for path in folder.rglob("*"))
