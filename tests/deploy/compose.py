"""Reads the compose file as `docker compose` does: variables filled in, YAML merges done, then checked.

Fills in what a given environment says, with compose's `${NAME:-default}` and `${NAME:?message}`. Starts
nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from compose_spec import PyCompose

DEPLOY = Path(__file__).parents[2] / "deploy"
_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<mode>[-?])(?P<rest>[^}]*))?\}")


class VariableMissing(ValueError):
    """A `${NAME:?message}` has no value; carries the message the user would see."""


def interpolate(text: str, environment: Mapping[str, str]) -> str:
    """`text` with every variable filled in; raises VariableMissing where compose would refuse to start."""

    def value(match: re.Match[str]) -> str:
        found = environment.get(match["name"], "")
        if found or match["mode"] is None:
            return found
        if match["mode"] == "?":
            raise VariableMissing(f"{match['name']}: {match['rest']}")
        return str(match["rest"])

    return _VARIABLE.sub(value, text)


def load(environment: Mapping[str, str]) -> dict[str, Any]:
    """The compose file as a mapping; raises VariableMissing, or ValueError where it breaks the specification."""
    text = "\n".join(line for line in _text().splitlines() if not line.lstrip().startswith("#"))
    compose: dict[str, Any] = yaml.safe_load(interpolate(text, environment))
    PyCompose.from_yaml(yaml.safe_dump(compose))
    return compose


def required_variables() -> frozenset[str]:
    """Names that compose refuses to do without."""
    return frozenset(m["name"] for m in _VARIABLE.finditer(_text()) if m["mode"] == "?")


def _text() -> str:
    return (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
