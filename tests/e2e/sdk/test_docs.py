"""The examples of docs/clients.md, as they stand there, against the real engine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

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


def test_the_python_examples_run(server: Server) -> None:
    """Each in a process of its own, as its readers run it: they close nothing either."""
    found = examples("python")
    assert len(found) >= 4
    for example in found:
        script = here(example if "import" in example else found[0] + example, server)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, example + done.stderr
        assert done.stdout.strip(), example


def test_the_javascript_example_runs(server: Server) -> None:
    (example,) = examples("javascript")
    folder: Path = installed()
    script = folder / "example.mjs"
    script.write_text(here(example, server))
    done = subprocess.run(["node", script], capture_output=True, text=True, timeout=60, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
