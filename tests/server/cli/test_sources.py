"""What `register` and `check` take as a source: archives, digests first, URIs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import Result

from loradock_adapters.digest import folder_digest
from loradock_adapters.peft_folder import SIGNATURE_FILE
from loradock_server.cli import register
from tests.adapters.making import lora_tensors, write_adapter, write_base
from tests.adapters.sources.packing import entries_of, special, tar_bytes, tgz_bytes, zip_bytes
from tests.fakes.hub import publish
from tests.fakes.web import Web, file, redirect, running_web
from tests.server.cli.scripted_server import ScriptedServer

Run = Callable[..., Result]
REGISTERED = {"id": "support-bot@2", "name": "support-bot", "version": 2, "created": True, "aliases": ["live"]}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "mine.tar.gz"
    path.write_bytes(tgz_bytes(entries_of(write_adapter(tmp_path / "mine"), below="mine/")))
    return path


def test_register_sends_an_archive_as_it_is(loradock: Run, server: ScriptedServer, archive: Path) -> None:
    server.enqueue(201, REGISTERED)
    result = loradock("adapters", "register", "support-bot", str(archive))
    assert result.exit_code == 0, result.output
    (seen,) = server.history
    assert seen.files == {"mine.tar.gz": archive.read_bytes()}


def test_register_of_many_bytes_asks_by_digest_first(
    loradock: Run, server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(register, "ASK_FIRST_BYTES", 100)
    folder = write_adapter(tmp_path / "mine")
    (folder / "optimizer.pt").write_bytes(b"not part of it")
    server.enqueue(404, {"error": {"message": "not here", "code": "digest_unknown"}})
    server.enqueue(201, REGISTERED)
    server.enqueue(200, REGISTERED | {"created": False})

    assert loradock("adapters", "register", "support-bot", str(folder)).exit_code == 0
    assert "unchanged" in loradock("adapters", "register", "support-bot", str(folder)).stdout

    digest = folder_digest(folder, ["adapter_config.json", "adapter_model.safetensors"])
    asked, sent, again = server.history
    assert asked.json == again.json == {"source": f"sha256:{digest}"}
    assert set(sent.files) == {"adapter_config.json", "adapter_model.safetensors"}


def test_a_large_archive_is_asked_for_by_what_is_in_it(
    loradock: Run, server: ScriptedServer, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(register, "ASK_FIRST_BYTES", 100)
    server.enqueue(404, {"error": {"message": "not here", "code": "digest_unknown"}})
    server.enqueue(201, REGISTERED)
    server.enqueue(200, REGISTERED | {"created": False})

    for says in ("registered", "unchanged"):
        assert says in loradock("adapters", "register", "support-bot", str(archive)).stdout

    asked, sent, again = server.history
    assert asked.json == again.json == {"source": f"sha256:{folder_digest(tmp_path / 'mine')}"}
    assert sent.files == {"mine.tar.gz": archive.read_bytes()}


def test_a_large_archive_that_no_server_would_take_is_not_sent(
    loradock: Run, server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(register, "ASK_FIRST_BYTES", 100)
    path = tmp_path / "mine.tar"
    path.write_bytes(tar_bytes([special("x", b"2", "/etc/passwd")]))
    result = loradock("adapters", "register", "support-bot", str(path))
    assert (result.exit_code, server.history) == (2, [])


def test_a_signed_archive_is_always_sent(
    loradock: Run, server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(register, "ASK_FIRST_BYTES", 100)
    path = tmp_path / "mine.tar"
    path.write_bytes(tar_bytes([*entries_of(write_adapter(tmp_path / "mine")), (SIGNATURE_FILE, b"{}")]))
    server.enqueue(201, REGISTERED)
    assert loradock("adapters", "register", "support-bot", str(path)).exit_code == 0
    assert [seen.files.keys() for seen in server.history] == [{"mine.tar"}]


def test_a_refusal_of_known_bytes_is_the_answer(
    loradock: Run, server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(register, "ASK_FIRST_BYTES", 100)
    server.enqueue(409, {"error": {"message": "that version is retired", "code": "conflict"}})
    result = loradock("adapters", "register", "support-bot", str(write_adapter(tmp_path / "mine")))
    assert result.exit_code == 1
    assert "retired" in result.output


def test_register_leaves_a_uri_to_the_server(loradock: Run, server: ScriptedServer) -> None:
    server.enqueue(201, REGISTERED)
    assert loradock("adapters", "register", "support-bot", "hf://org/repo@v1").exit_code == 0
    (seen,) = server.history
    assert seen.json == {"source": "hf://org/repo@v1"}


@pytest.mark.parametrize("pack", [tar_bytes, tgz_bytes, zip_bytes])
def test_check_judges_what_is_in_an_archive(loradock: Run, tmp_path: Path, pack: Callable[..., bytes]) -> None:
    base = write_base(tmp_path)
    path = tmp_path / "mine.zip"  # the bytes say what it is
    path.write_bytes(pack(entries_of(write_adapter(tmp_path / "mine"))))
    result = loradock("adapters", "check", str(path), "--base", str(base))
    assert result.exit_code == 0, result.output
    assert f"try: loradock adapters register NAME {path}" in result.stdout
    document = json.loads(loradock("adapters", "check", str(path), "--base", str(base), "--json").stdout)
    assert document["path"] == str(path)


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_check_of_a_hostile_archive_is_exit_code_2_with_the_reason(
    loradock: Run, tmp_path: Path, flags: list[str]
) -> None:
    path = tmp_path / "mine.tar"
    path.write_bytes(tar_bytes([special("x", b"2", "/etc/passwd")]))
    result = loradock("adapters", "check", str(path), "--no-base", *flags)
    assert result.exit_code == 2
    assert "a link to '/etc/passwd'" in result.output
    assert "tar -czhf" in result.output


def test_check_of_a_uri_that_makes_no_sense_is_exit_code_2(loradock: Run) -> None:
    result = loradock("adapters", "check", "zip://x::http://h/y", "--no-base")
    assert result.exit_code == 2
    assert "fix: " in result.output


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    with running_web() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


def test_check_fetches_a_uri_to_this_machine_without_any_list(loradock: Run, web: Web, tmp_path: Path) -> None:
    base = str(write_base(tmp_path))
    folder = write_adapter(tmp_path / "mine")
    publish(web, "org/mine", {path.name: path.read_bytes() for path in folder.iterdir()})
    web.on("/b.tgz", file(tgz_bytes(entries_of(folder))))
    address = web.on("/a.tgz", redirect("/b.tgz"))
    for source in ("hf://org/mine@main", address):
        result = loradock("adapters", "check", source, "--base", base)
        assert result.exit_code == 0, result.output
        assert f"try: loradock adapters register NAME {source}" in result.stdout
    missing = loradock("adapters", "check", f"{web.url}/none.tgz", "--no-base")
    assert (missing.exit_code, "is not there" in missing.stderr) == (2, True)


def test_check_judges_what_it_fetched_and_can_repair_a_pickle_from_a_hub(
    loradock: Run, web: Web, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    folder = write_adapter(tmp_path / "mine")
    tensors = {name: torch.from_numpy(array) for name, array in lora_tensors().items()}
    torch.save(tensors, tmp_path / "adapter_model.bin")
    files = {
        "adapter_config.json": (folder / "adapter_config.json").read_bytes(),
        "adapter_model.bin": (tmp_path / "adapter_model.bin").read_bytes(),
    }
    publish(web, "org/mine", files)
    plain = loradock("adapters", "check", "hf://org/mine", "--no-base")
    assert (plain.exit_code, "--fix OUT" in plain.stderr) == (2, True)
    fixed = loradock("adapters", "check", "hf://org/mine", "--no-base", "--fix", str(tmp_path / "fixed"))
    assert fixed.exit_code == 0, fixed.output
    assert (tmp_path / "fixed" / "adapter_model.safetensors").exists()


def test_register_fetches_here_what_the_server_is_not_to_reach(
    loradock: Run, server: ScriptedServer, web: Web, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "mine")
    address = web.on("/a.zip", file(zip_bytes(entries_of(folder, below="mine/"))))
    server.enqueue(201, REGISTERED)
    result = loradock("adapters", "register", "support-bot", address, "--fetch-here")
    assert result.exit_code == 0, result.output
    (seen,) = server.history
    assert seen.files == {path.name: path.read_bytes() for path in folder.iterdir()}
