"""What a bare install may not drag in: the heavy libraries of the extras."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "vllm",
    "transformers",
    "peft",
    "trl",
    "datasets",
    "numba",
    "bitsandbytes",
    "matplotlib",
    "safetensors",
)

LIGHT_MODULES = [
    "loradock_adapters",
    "loradock_adapters.base_model",
    "loradock_adapters.check",
    "loradock_adapters.peft_folder",
    "loradock_adapters.registry",
    "loradock_adapters.safetensors_header",
    "loradock_adapters.store",
    "loradock_server.cli.main",
    "loradock_server.cli.serve",
    "loradock_server.engine.guard",
    "loradock_server.engine.supervisor",
    "loradock_server.gateway.server",
    "loradock_server.settings",
    "loradock_server.telemetry.metrics",
]

PROGRAM = """
import importlib, sys
importlib.import_module(sys.argv[1])
print(*[name for name in sys.argv[2:] if name in sys.modules])
"""


@pytest.mark.parametrize("module", LIGHT_MODULES)
def test_importing_it_loads_no_heavy_library(module: str) -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM, module, *HEAVY], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == []


def test_the_probe_would_notice_a_heavy_library() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, "safetensors", *HEAVY], capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == ["safetensors"]
