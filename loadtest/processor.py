"""What the reports call this machine's processor."""

from __future__ import annotations

import platform
from pathlib import Path


def processor() -> str:
    """The model's name as Linux tells it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()
