"""The examples of docs/clients.md, as they stand there, against the real engine."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.sdk.node_suite import installed
from tests.e2e.server import ROOT, Server

pytestmark = pytest.mark.e2e

PAGE = (ROOT / "docs/clients.md").read_text()


def examples(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def here(example: str, server: Server) -> str:
    assert "http://127.0.0.1:8000" in example or "client." in example
    return example.replace("http://127.0.0.1:8000", server.url).replace("ld-…", server.key)


def test_the_python_examples_run(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    found = examples("python")
    assert len(found) >= 4
    opening = here(found[0], server)
    for example in found:
        names: dict[str, Any] = {}
        if "import" not in example:
            exec(opening, names)
        exec(here(example, server), names)
        assert capsys.readouterr().out.strip(), example
        close(names)


def close(names: dict[str, Any]) -> None:
    if client := names.get("client"):
        client.close()


def test_the_javascript_example_runs(server: Server) -> None:
    (example,) = examples("javascript")
    folder: Path = installed()
    script = folder / "example.mjs"
    script.write_text(here(example, server))
    done = subprocess.run(["node", script], capture_output=True, text=True, timeout=60, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
