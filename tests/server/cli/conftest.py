"""Every test here runs in an empty folder of its own, with no LORADOCK_ variable from outside."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from loradock_server.cli.main import app
from tests.server.cli.scripted_server import ScriptedServer, running

Invoke = Callable[..., Result]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith("LORADOCK_") or name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "TERM"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LORADOCK_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def loradock() -> Invoke:
    """Run `loradock` with these arguments; the result has exit_code, stdout and stderr."""

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(app, arguments, prog_name="loradock")

    return invoke


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    """A scripted server that the commands find through LORADOCK_URL, with a key."""
    scripted = ScriptedServer()
    with running(scripted) as url:
        scripted.url = url
        monkeypatch.setenv("LORADOCK_URL", url)
        monkeypatch.setenv("LORADOCK_API_KEY", "ld-test")
        yield scripted


@pytest.fixture
def adapter_folder(tmp_path: Path) -> Path:
    """Files named as PEFT names them, with content that only a judging server would mind."""
    folder = tmp_path / "my-adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (folder / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 1000)
    return folder
