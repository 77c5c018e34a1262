"""`backup` of a home whose gateway runs, `restore` into another one, whose gateway then has the same versions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from loradock_adapters.base_model import BaseModel
from loradock_adapters.digest import folder_digest
from loradock_adapters.registry import Registry
from loradock_server.gateway.app import create_app
from loradock_server.settings import load_settings
from tests.adapters.making import lora_config, write_adapter, write_base
from tests.server.cli.scripted_server import running

Run = Callable[..., Result]
KEY = "ld-backup-admin-key-0123456789"


def test_a_backup_is_restored_elsewhere_and_served_from_there(
    loradock: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = BaseModel.read(write_base(tmp_path))
    monkeypatch.setenv("LORADOCK_API_KEY", KEY)

    def serving(folder: Path):  # type: ignore[no-untyped-def]  # a context manager's type says less than this name
        settings = load_settings(home=folder)
        registry = Registry.open(settings.registry)
        registry.keys.ensure_admin(KEY)
        return running(create_app(settings, registry, settings.open_store(), base, "token"))

    with serving(home) as url:
        monkeypatch.setenv("LORADOCK_URL", url)
        digests = []
        for alpha in (4, 8):
            folder = write_adapter(tmp_path / f"a{alpha}", config=lora_config(lora_alpha=alpha))
            answer = loradock("adapters", "register", "bot", str(folder), "--json")
            digests.append(json.loads(answer.stdout)["digest"])
        taken = loradock("backup", "saved")
        assert taken.exit_code == 0, taken.output
        assert "backed up into saved" in taken.stdout
        assert loradock("backup", "saved").exit_code == 1, "nothing is overwritten"
        assert loradock("adapters", "promote", "bot", "1").exit_code == 0
    assert (tmp_path / "saved").stat().st_mode & 0o777 == 0o700

    restored = loradock("restore", "saved", "--home", "second", "--json")
    assert restored.exit_code == 0, restored.output
    assert json.loads(restored.stdout)["versions"] == 2
    assert loradock("restore", "saved", "--home", "second").exit_code == 1, "there is a registry now"
    assert loradock("doctor", "--home", "second").stdout.strip() == "nothing is wrong"
    with serving(tmp_path / "second") as url:
        monkeypatch.setenv("LORADOCK_URL", url)
        for model, digest in (("bot@1", digests[0]), ("bot", digests[1])):
            assert loradock("adapters", "pull", model, f"pulled-{model}").exit_code == 0
            files = [path.name for path in (tmp_path / f"pulled-{model}").iterdir() if path.name != "version.json"]
            assert folder_digest(tmp_path / f"pulled-{model}", files) == digest


def test_what_cannot_be_backed_up_says_what_to_do(
    loradock: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments, says in (
        (("backup", "out"), "there is no registry"),
        (("restore", "nowhere", "--home", "other"), "is no backup"),
    ):
        result = loradock(*arguments)
        assert (result.exit_code != 0, says in result.stderr) == (True, True), result.stderr
    monkeypatch.setenv("LORADOCK_REGISTRY_URL", "postgresql://nobody@localhost/x")
    result = loradock("backup", "out")
    assert (result.exit_code, "pg_dump" in result.stderr) == (2, True)
    assert not (tmp_path / "out").exists()
