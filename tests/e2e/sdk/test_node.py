"""OpenAI's SDK for JavaScript and the real engine, by Node's own test runner."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.server import ROOT, Server
from tests.e2e.waiting import eventually

pytestmark = pytest.mark.e2e

SUITE = Path(__file__).parent / "node"


@pytest.fixture(scope="module")
def suite() -> Path:
    """The suite beside what its lock file says, installed once into a folder that git ignores."""
    folder = ROOT / "var/node"
    folder.mkdir(parents=True, exist_ok=True)
    lock = (SUITE / "package-lock.json").read_bytes()
    installed = folder / "node_modules/.package-lock.json"
    is_current = installed.exists() and (folder / "package-lock.json").read_bytes() == lock
    for file in SUITE.iterdir():
        if file.is_file():
            shutil.copy2(file, folder)
    if not is_current:
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_sdk_for_javascript_is_served(server: Server, suite: Path) -> None:
    environment = {**os.environ, "LORADOCK_URL": server.url, "LORADOCK_API_KEY": server.key}
    done = subprocess.run(
        ["node", "--test"], cwd=suite, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    eventually(lambda: server.metric("loradock_requests_in_flight") == 0)
