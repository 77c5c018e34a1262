"""`adapters pull` from servers that send something else than they promised: refused, and nothing is left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.responses import Response
from typer.testing import Result

from loradock_adapters.digest import folder_digest
from loradock_adapters.folder_tar import FolderTar
from tests.server.cli.scripted_server import ScriptedServer

Run = Callable[..., Result]


def tar_of(folder: Path) -> bytes:
    tar = FolderTar.open(folder)
    try:
        return b"".join(tar.chunks())
    finally:
        tar.close()


def answer(server: ScriptedServer, folder: Path, tar: bytes, **headers: str) -> None:
    size = sum(path.stat().st_size for path in folder.iterdir())
    version = {"id": "bot@1", "name": "bot", "version": 1, "digest": folder_digest(folder), "size_bytes": size}
    server.enqueue(200, version)
    server.answers.append(Response(tar, 200, {"content-type": "application/x-tar", **headers}))


def test_the_files_come_whole(loradock: Run, server: ScriptedServer, adapter_folder: Path, tmp_path: Path) -> None:
    answer(server, adapter_folder, tar_of(adapter_folder))
    result = loradock("adapters", "pull", "bot@1", "out")
    assert result.exit_code == 0, result.output
    for path in adapter_folder.iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    assert [seen.path for seen in server.history] == [
        "/admin/adapters/bot/versions/1",
        "/admin/adapters/bot/versions/1/files",
    ]


@pytest.mark.parametrize("lie", ["other bytes", "cut short", "endless", "a page"])
def test_anything_else_is_refused(
    loradock: Run, server: ScriptedServer, adapter_folder: Path, tmp_path: Path, lie: str
) -> None:
    tar = tar_of(adapter_folder)
    sent, code, says = {
        "other bytes": (tar.replace(b"LORA", b"loha"), 1, "its digest is"),
        "cut short": (tar[:100_000], 1, "cut short"),
        "endless": (tar[:-1024] + tar[:512] + bytes(1 << 20), 1, "what the server sent is not bot@1"),
        "a page": (b"<html>", 1, "what the server sent is not bot@1"),
    }[lie]
    answer(server, adapter_folder, sent)
    result = loradock("adapters", "pull", "bot@1", "out")
    assert (result.exit_code, says in result.stderr) == (code, True), result.stderr
    assert [path.name for path in tmp_path.iterdir()] == [adapter_folder.name]
