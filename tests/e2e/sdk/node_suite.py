"""OpenAI's SDK for JavaScript, installed once into a folder that git ignores, beside the tests that use it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.e2e.server import ROOT

SUITE = Path(__file__).parent / "node"


def installed() -> Path:
    """The folder with the suite and what its lock file names."""
    folder = ROOT / "var/node"
    folder.mkdir(parents=True, exist_ok=True)
    lock, installed = (SUITE / "package-lock.json").read_bytes(), folder / "node_modules/.package-lock.json"
    is_current = installed.exists() and (folder / "package-lock.json").read_bytes() == lock
    for file in SUITE.iterdir():
        if file.is_file():
            shutil.copy2(file, folder)
    if not is_current:
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder
