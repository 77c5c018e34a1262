"""The canonical digest."""

from __future__ import annotations

import hashlib
from pathlib import Path

from loradock_adapters.digest import file_digest, folder_digest, list_files


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_the_digest_is_the_hash_of_the_written_down_list(tmp_path: Path) -> None:
    write(tmp_path, {"b.txt": b"two", "a.txt": b"one", "sub/c": b""})
    lines = [("a.txt", b"one"), ("b.txt", b"two"), ("sub/c", b"")]
    listing = "".join(f"{name}\0{len(data)}\0{hashlib.sha256(data).hexdigest()}\n" for name, data in lines)
    assert folder_digest(tmp_path) == hashlib.sha256(listing.encode()).hexdigest()
    assert file_digest(tmp_path / "a.txt") == hashlib.sha256(b"one").hexdigest()


def test_order_of_naming_does_not_matter_but_names_and_bytes_do(tmp_path: Path) -> None:
    one = write(tmp_path / "1", {"a": b"x", "b": b"y"})
    assert folder_digest(one, ["b", "a"]) == folder_digest(one, ["a", "b"]) == folder_digest(one)
    swapped = write(tmp_path / "2", {"a": b"y", "b": b"x"})
    renamed = write(tmp_path / "3", {"a": b"x", "c": b"y"})
    assert len({folder_digest(one), folder_digest(swapped), folder_digest(renamed), folder_digest(one, ["a"])}) == 4


def test_files_are_listed_below_subfolders_too(tmp_path: Path) -> None:
    write(tmp_path, {"x/y/z": b"", "a": b""})
    assert list_files(tmp_path) == ("a", "x/y/z")
