"""`loradock evaluate` on the real engine: an adapter of ours against the base, prompted and not."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from loradock_adapters.base_model import BaseModel
from tests.e2e.server import EXAMPLES, LORADOCK, Server

DATA = EXAMPLES / "home-commands/data"


def evaluate(server: Server, *flags: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LORADOCK_URL": server.url, "LORADOCK_API_KEY": server.key}
    return subprocess.run(
        [str(LORADOCK), "evaluate", "home-commands", *flags],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_adapter_that_learned_its_task_is_promoted(server: Server, base: BaseModel, tmp_path: Path) -> None:
    flags = ("--data", str(DATA / "held_out.jsonl"), "--limit", "24", "--min-examples", "20", "--out", str(tmp_path))
    prompted = ("--train", str(DATA / "train.jsonl"), "--shots", "2", "--prompt", "Answer with the intent as JSON.")
    done = evaluate(server, *flags, *prompted, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
