"""Keys and signatures from the command line: a trainer's side of the story, against the real gateway where it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from loradock_adapters.signing import TrustedKey, adapter_digest, make_key, read_signature
from tests.adapters.making import write_adapter, write_base
from tests.server.cli.scripted_server import ScriptedServer

Run = Callable[..., Result]


def said(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_key_is_made_an_adapter_signed_and_the_check_demands_just_that(
    loradock: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, base = str(write_adapter(tmp_path / "mine")), str(write_base(tmp_path))
    made = said(loradock("adapters", "keygen", "trainer.key", "--name", "trainer", "--json"))
    assert TrustedKey.parse(made["trusted_key"]).name == "trainer"
    assert loradock("adapters", "keygen", "trainer.key", "--name", "trainer").exit_code == 2
    monkeypatch.setenv("LORADOCK_REQUIRE_SIGNATURE", "true")
    monkeypatch.setenv("LORADOCK_TRUSTED_KEYS", made["trusted_key"])
    refused = loradock("adapters", "check", folder, "--base", base)
    assert refused.exit_code == 1
    assert "unsigned" in refused.stdout
    signed = said(loradock("adapters", "sign", folder, "--key", "trainer.key", "--json"))
    assert made["trusted_key"] == f"trainer={signed['public_key']}"
    assert loradock("adapters", "check", folder, "--base", base).exit_code == 0


def test_register_signs_what_it_uploads_and_leaves_the_folder_alone(
    loradock: Run, server: ScriptedServer, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "mine")
    key = make_key(tmp_path / "trainer.key", "trainer")
    server.enqueue(201, {"id": "poet@1", "digest": "d", "created": True})
    said(loradock("adapters", "register", "poet", str(folder), "--sign", "trainer.key", "--json"))
    assert read_signature(folder) is None
    (seen,) = server.history
    assert "adapter_config.json" in seen.files
    assert json.loads(seen.files["signature.json"])["public_key"] == key.text.partition("=")[2]
    (tmp_path / "sent").mkdir()
    for name, data in seen.files.items():
        (tmp_path / "sent" / name).write_bytes(data)
    sent = read_signature(tmp_path / "sent")
    assert sent is not None
    assert sent.holds_for(adapter_digest(folder))


def test_what_cannot_be_signed_is_said_before_anything_is_sent(
    loradock: Run, server: ScriptedServer, tmp_path: Path
) -> None:
    folder = str(write_adapter(tmp_path / "mine"))
    (tmp_path / "bad.key").write_text("hello")
    result = loradock("adapters", "register", "poet", folder, "--sign", "bad.key")
    assert result.exit_code == 1
    assert "bad.key" in result.stderr
    result = loradock("adapters", "register", "poet", folder, "--sign", "bad.key", "--on-server")
    assert result.exit_code == 2
    assert "uploaded" in result.stderr
    assert loradock("train", "recipe.toml", "--sign", "bad.key").exit_code == 1
    assert server.history == []
