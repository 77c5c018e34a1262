"""The hazards played through once per test run, on plain vLLM and under our rules, side by side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

ROOT = Path(__file__).parents[4]
SECONDS = 500

Seen = dict[str, Any]


@pytest.fixture(scope="session")
def played() -> dict[str, Seen]:
    # No plugin at all is loaded in either process; the second puts our changes in place by hand.
    env = {**os.environ, "VLLM_PLUGINS": "", "VLLM_LOGGING_LEVEL": "ERROR"}
    running = {
        mode: subprocess.Popen(
            [sys.executable, "-m", "tests.server.engine.hazards.scenarios", mode],
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for mode in ("plain", "ours")
    }
    result = {}
    for mode, process in running.items():
        out, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, err.decode()[-4000:]
        result[mode] = json.loads(out)
    return result


@pytest.fixture(scope="session")
def plain(played: dict[str, Seen]) -> Seen:
    """What was seen on plain vLLM, by hazard."""
    return played["plain"]


@pytest.fixture(scope="session")
def ours(played: dict[str, Seen]) -> Seen:
    """What was seen under our engine's rules, by hazard."""
    return played["ours"]
