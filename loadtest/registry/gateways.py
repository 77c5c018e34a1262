"""Real gateways as processes of their own on one database, without an engine, which administration does not need."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
from safetensors.numpy import save_file

ADMIN_KEY = "ld-bench-admin-key-0123456789"
START_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Gateway:
    """`started` is how many seconds passed from its process's start to its first answer."""

    http: httpx.Client
    started: float


@contextmanager
def running(registry_url: str, home: Path, base: Path) -> Iterator[Gateway]:
    """A gateway, until the block ends."""
    home.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "LORADOCK_HOME": str(home),
        "LORADOCK_PORT": str(port),
        "LORADOCK_MODEL": str(base),
        "LORADOCK_REGISTRY_URL": registry_url,
        "LORADOCK_ADMIN_KEY": ADMIN_KEY,
        "LORADOCK_ENGINE_URL": f"unix:{home}/nobody.sock",
        "LORADOCK_ENGINE_TOKEN": "nobody",
    }
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    http = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60, trust_env=False)
    began = time.perf_counter()
    with (home / "gateway.log").open("wb") as log:
        command = [sys.executable, "-c", "from loradock_server.cli.main import app; app()", "gateway"]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield Gateway(http, _first_answer(http, process, began, home / "gateway.log"))
    finally:
        http.close()
        process.terminate()
        process.wait(60)


def write_base(folder: Path) -> Path:
    """A model of one layer, just so that adapters have a base."""
    folder.mkdir(parents=True)
    config = {"architectures": ["LlamaForCausalLM"], "vocab_size": 32, "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"embed_tokens": (32, 8), "layers.0.self_attn.q_proj": (8, 8)}
    tensors = {f"model.{name}.weight": np.zeros(shape, np.float32) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    return folder


def _first_answer(http: httpx.Client, process: subprocess.Popen[bytes], began: float, log: Path) -> float:
    while True:
        try:
            if http.get("/healthz").is_success:
                return time.perf_counter() - began
        except httpx.TransportError:
            pass
        alive = process.poll() is None and time.perf_counter() - began < START_SECONDS
        if not alive:
            raise RuntimeError(f"the gateway did not start:\n{log.read_text(errors='replace')[-4000:]}")
        time.sleep(0.005)
