"""Python sources of vLLM's versions: fetched by pip once, the rest of each wheel thrown away."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from .sources import Sources

FACTS = Path(__file__).parent / "facts"


def cache() -> Path:
    """Where sources are kept between runs: below LORADOCK_HOME, which is `var/` for every make target."""
    home = os.environ.get("LORADOCK_HOME") or Path(__file__).parents[4] / "var"
    return Path(home) / "vllm-sources"


def fetched(version: str) -> Sources:
    """The sources of the newest release of this minor version (0.33). Raises CalledProcessError where pip cannot."""
    return Sources(fetched_folder(version))


def fetched_folder(version: str) -> Path:
    """The folder of those sources, with the package's metadata; good for PYTHONPATH."""
    folder = cache() / version
    if folder.is_dir():
        return folder
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache()) as temporary:
        wanted = (f"vllm=={version}.*", "--no-deps", "--dest", temporary)
        # Of the CUDA build there is one wheel for all Pythons; what it needs is not fetched.
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *wanted], check=True)
        (wheel,) = Path(temporary).glob("*.whl")
        unpacked = Path(temporary, "unpacked")
        with zipfile.ZipFile(wheel) as archive:
            members = [name for name in archive.namelist() if name.endswith(".py") or ".dist-info/" in name]
            archive.extractall(unpacked, members)
        unpacked.rename(folder)
    return folder
