"""The real base and the real command, killed from outside at moments that nobody chose. With LONG_TESTS=1.

It takes the bundled base of LORADOCK_HOME, by default this checkout's home folder.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BASE = Path(os.environ.get("LORADOCK_HOME", Path(__file__).parents[3] / "var")) / "base/smollm2-135m-instruct"
RECIPE = """
name = "lights"
base = "HuggingFaceTB/SmolLM2-135M-Instruct"

[data]
train = "train.jsonl"
held_out = "held_out.jsonl"
max_length = 96

[training]
steps = 12
batch_size = 4
learning_rate = 1e-3
eval_every = 5
eval_examples = 8
checkpoint_every = 2
"""
KILLS = 3


def command(recipe: Path, out: Path, *flags: str) -> list[str]:
    program = [sys.executable, "-c", "from loradock_server.cli.main import app; app()"]
    return [*program, "train", str(recipe), "--base", str(BASE), "--out", str(out), *flags]


def steps_done(out: Path) -> int:
    """Steps in the log of the run that is under way."""
    try:
        lines = (out / "lights.partial" / "train.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return 0
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(os.environ.get("LONG_TESTS") != "1", reason="minutes of training; LONG_TESTS=1")
@pytest.mark.skipif(not BASE.is_dir(), reason="the base model was not fetched")
@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_killed_again_and_again_it_ends_in_the_bytes_of_the_undisturbed_run(tmp_path: Path, quantization: str) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'{RECIPE}[quantization]\ntype = "{quantization}"\n')
    for name, first in (("train", 0), ("held_out", 1000)):
        rows = [
            {"prompt": f"set lamp {number} to {number % 100} percent", "completion": json.dumps({"lamp": number})}
            for number in range(first, first + 40)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "LORADOCK_HOME": str(tmp_path / "home")}
    chance = random.Random(20261126)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(recipe, whole), env=environment, check=True)

    for _ in range(KILLS):
        child = subprocess.Popen(command(recipe, killed, "--resume"), env=environment)
        reached = steps_done(killed) + 2
        while child.poll() is None and steps_done(killed) < min(reached, 11):
            time.sleep(0.05)
        time.sleep(chance.uniform(0.0, 1.5))  # also amid the writing of a checkpoint
        child.send_signal(signal.SIGKILL)
        child.wait()
    if not (killed / "lights").exists():
        subprocess.run(command(recipe, killed, "--resume"), env=environment, check=True)

    manifests = [json.loads((out / "lights" / "manifest.json").read_text()) for out in (whole, killed)]
    assert manifests[0]["adapter"]["digest"] == manifests[1]["adapter"]["digest"]
    assert manifests[0]["losses"] == manifests[1]["losses"]
    assert manifests[0]["run"]["tokens"] == manifests[1]["run"]["tokens"]
