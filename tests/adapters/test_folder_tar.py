"""A folder as a tar stream: what any tar program reads, and nothing hostile comes out of one."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from loradock_adapters.errors import AdapterMalformed
from loradock_adapters.folder_tar import FolderTar, unpack

FILES = {
    "adapter_config.json": b"{}",
    "adapter_model.safetensors": bytes(range(256)) * 9000,
    "empty": b"",
    "b": b"x" * 512,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "source"
    made.mkdir()
    for name, data in FILES.items():
        (made / name).write_bytes(data)
    return made


@pytest.fixture
def out(tmp_path: Path) -> Path:
    made = tmp_path / "out"
    made.mkdir()
    return made


def packed(folder: Path) -> bytes:
    tar = FolderTar.open(folder)
    try:
        data = b"".join(tar.chunks())
    finally:
        tar.close()
    assert len(data) == tar.size_bytes, "the length is promised before the first byte"
    return data


def test_what_goes_in_comes_out_and_others_can_read_it(folder: Path, out: Path) -> None:
    data = packed(folder)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == sorted(FILES)
        assert {(m.uid, m.uname, m.mtime, m.mode) for m in archive} == {(0, "", 0, 0o644)}
    assert unpack(io.BytesIO(data), out, names=FILES, limit_bytes=10**7) == tuple(sorted(FILES))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == FILES


def test_the_stream_does_not_depend_on_what_happens_to_the_folder_meanwhile(folder: Path) -> None:
    whole, tar = packed(folder), FolderTar.open(folder)
    for path in folder.iterdir():
        path.unlink()
    assert b"".join(tar.chunks()) == whole
    tar.close()


@pytest.mark.parametrize("cut", [0, 10, 600, 5000, -1024 - 600])
def test_a_stream_that_is_cut_short_is_refused(folder: Path, out: Path, cut: int) -> None:
    data = packed(folder)[:cut]
    try:
        names = unpack(io.BytesIO(data), out, names=FILES, limit_bytes=10**7)
    except AdapterMalformed:
        return
    assert len(names) < len(FILES), "cut between two files it is a shorter archive; the digest tells"


def member(name: str, *, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info.tobuf() + bytes(size + -size % 512)


@pytest.mark.parametrize(
    "data",
    [
        member("../b"),
        member("/b"),
        member("other"),
        member("b") * 2,
        member("b", kind=tarfile.SYMTYPE, link="/etc/passwd"),
        member("b", kind=tarfile.LNKTYPE, link="/etc/passwd"),
        member("b", kind=tarfile.DIRTYPE),
        member("b", kind=tarfile.FIFOTYPE),
        member("b", kind=tarfile.CHRTYPE),
        member("b", size=1001),
        member("b", size=600) + member("empty", size=401),
        b"\x1f\x8b" + bytes(1000),
        b"x" * 1024,
    ],
)
def test_nothing_hostile_comes_out(out: Path, data: bytes) -> None:
    with pytest.raises(AdapterMalformed):
        unpack(io.BytesIO(data + bytes(1024)), out, names=FILES, limit_bytes=1000)
    assert {path.name for path in out.iterdir()} <= {"b"}
