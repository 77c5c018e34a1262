"""Bases of many architectures answer as PEFT does: alone, with an adapter on attention and with one on all linear
layers, in one batch, in float32. One process for all of them (measure.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

pytest.importorskip("vllm")
pytest.importorskip("peft")

from tests.e2e.architectures.bases import GENERATING, POOLING
from tests.e2e.reporting import report
from tests.e2e.server import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

SAME = 1e-4  # of a logprob: another order of sums


@pytest.fixture(scope="module")
def measured() -> Mapping[str, Any]:
    """What measure.py found, by architecture."""
    command = [sys.executable, "-m", "tests.e2e.architectures.measure", *GENERATING, *POOLING]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1700, check=False)
    found = {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 0, f"after {list(found)}: {done.stderr[-3000:]}"
    return found


@pytest.mark.parametrize("name", [*GENERATING, *POOLING])
def test_base_and_adapters_in_one_batch_are_what_peft_says(measured: Mapping[str, Any], name: str) -> None:
    found = measured[name]
    assert "error" not in found, found["error"]
    report(f"{name}: {found['worst']:.2g} from PEFT, staged: {found['staged']}")
    assert found["effect"] > 0.1, "the adapters do too little to be compared"
    assert found["worst"] <= SAME
    assert found["faults"] == {"narrow": [], "wide": []}, "an adapter that PEFT made on this base fits it"
    assert found["unserved"] == [], "the check lets adapters touch what the engine leaves alone"
    assert found["staged"], "loading would hold up decoding"
