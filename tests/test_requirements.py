"""The pins that `make venv` installs are ones that pyproject.toml allows, and none of its packages is left unpinned."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
# What requirements/cpu.txt is made for (scripts/requirements). The cuda extra is installed unpinned, beside no other.
PINNED = ("cpu", "train", "evaluate", "dev")


def pins() -> dict[str, Version]:
    text = (ROOT / "requirements" / "cpu.txt").read_text()
    return {canonicalize_name(name): Version(pin) for name, pin in re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.M)}


def required() -> list[Requirement]:
    texts = [*PROJECT["dependencies"], *(text for extra in PINNED for text in EXTRAS[extra])]
    return [one for one in map(Requirement, texts) if one.marker is None or one.marker.evaluate()]


@pytest.mark.parametrize("wanted", required(), ids=str)
def test_a_pin_is_within_the_bounds(wanted: Requirement) -> None:
    pinned = pins().get(canonicalize_name(wanted.name))
    assert pinned is not None, f"{wanted.name} has no pin: run `make requirements`"
    assert wanted.specifier.contains(pinned, prereleases=True), f"{wanted} does not allow the pin {pinned}"


@pytest.mark.parametrize("extra", sorted(set(EXTRAS) - {*PINNED, "cuda"}))
def test_an_extra_of_its_own_is_tested_with_a_pin_too(extra: str) -> None:
    """dev has what these have, with the same bounds, or nothing would say that they fit together."""
    assert set(EXTRAS[extra]) <= set(EXTRAS["dev"])


def test_a_bound_below_is_given_for_every_package_that_runs_with_the_server() -> None:
    """`make test-lowest` takes the lowest that is allowed; what has no lowest was never tested there."""
    light = [
        *PROJECT["dependencies"],
        *(text for extra in ("postgres", "s3", "redis", "evaluate") for text in EXTRAS[extra]),
    ]
    unbounded = [
        text for text in light if not any(one.operator in (">=", "==", "~=") for one in Requirement(text).specifier)
    ]
    assert unbounded == []
