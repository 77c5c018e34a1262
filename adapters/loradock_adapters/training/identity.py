"""What makes a run this run: recipe, data, base. Only a run that is the same in all three may go on from a checkpoint.

Machine and libraries are written down too: with others it may go on, and then may end in other bits.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loradock_adapters.files import read_capped
from loradock_adapters.planning.training_dtype import TrainingDtype
from loradock_adapters.strict_json import parse_object
from loradock_adapters.training.recipe import Recipe

RUN_FILE = "run.json"
_LARGEST_BYTES = 4 << 20
_WITHOUT_EFFECT = ("description", "training.report_to", "training.checkpoint_every")
_DTYPE = "training.compute_dtype"
_ONLY_DTYPE_ONCE = "bfloat16"  # of runs that were begun before a recipe could say it


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """`facts` must agree, `surroundings` should; both map a name in words to a plain value."""

    facts: dict[str, Any]
    surroundings: dict[str, Any]

    @classmethod
    def of(
        cls, recipe: Recipe, data: dict[str, str], base_digest: str, dtype: TrainingDtype, surroundings: dict[str, Any]
    ) -> RunIdentity:
        """`data`: sha256 by role; `dtype`: what is computed in, which the recipe may leave to the machine. Comments,
        and what changes no number, do not count.
        """
        values = dict(_flat(json.loads(json.dumps(asdict(recipe), default=str)), ""))
        for name in _WITHOUT_EFFECT:
            values.pop(name, None)
        files = {f"data ({role})": digest for role, digest in data.items()}
        return cls({**values, _DTYPE: dtype, **files, "base model": base_digest}, surroundings)

    @classmethod
    def read(cls, folder: Path) -> RunIdentity | None:
        """Of a run that was broken off, or None if the folder does not tell."""
        try:
            document = parse_object(read_capped(folder / RUN_FILE, _LARGEST_BYTES))
        except (OSError, ValueError):
            return None
        facts, surroundings = document.get("facts"), document.get("surroundings")
        if not isinstance(facts, dict) or not isinstance(surroundings, dict):
            return None
        return cls({_DTYPE: _ONLY_DTYPE_ONCE, **facts}, surroundings)

    def write(self, folder: Path) -> None:
        """Write run.json, complete or not at all."""
        path = folder / (RUN_FILE + ".new")
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        path.replace(folder / RUN_FILE)

    def differences(self, before: RunIdentity) -> list[str]:
        """What keeps this run from being the one before, in words."""
        return _differences(before.facts, self.facts)

    def other_surroundings(self, before: RunIdentity) -> list[str]:
        return _differences(before.surroundings, self.surroundings)


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    # Data and base are known by digests, whose first digits tell them apart.
    return [
        f"{name} was {_shown(before.get(name))} and is {_shown(now.get(name))}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return "not given" if value is None else text if len(text) <= 40 else text[:16] + '…"'


def _flat(table: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in table.items():
        found += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return found
