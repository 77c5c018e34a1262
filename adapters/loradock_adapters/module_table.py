"""What a base model is made of, as whoever must not import torch knows it: the table, and a process that fills it.

Names and shapes are those that PEFT sees, whatever the checkpoint calls its tensors and however they are quantised.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from loradock_adapters.errors import BaseModelError
from loradock_adapters.linear_shape import LinearShape

_BUILD_SECONDS = 300
_POOLER = "pooler"


@dataclass(frozen=True, slots=True)
class BaseModules:
    """A model's parts by PEFT's names.

    `linear`: all that PEFT's `all-linear` selects, which is every linear layer but the output head. `language`: those
    of them that belong to the language model, not to a vision or audio tower beside it. `transposed`: those whose
    weight lies as (in, out), GPT-2's Conv1D. `experts`: parameters of fused experts, with shapes such as (experts, out,
    in); no linear layer, so PEFT reaches them by `target_parameters` only. `parameters`: numbers in all, tied once.
    `config`: plain values of the language model's configuration, by transformers' usual names and with its defaults;
    `dtype`: of the checkpoint. `generates`: it has an output head.
    """

    linear: Mapping[str, LinearShape]
    language: frozenset[str] = frozenset()
    transposed: frozenset[str] = frozenset()
    experts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    parameters: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    generates: bool = True

    @property
    def adaptable(self) -> Mapping[str, LinearShape]:
        """What adapters may change here: the language model's linear layers, without an encoder's pooler, which has
        no part in the embeddings that are served.
        """
        chosen = {
            name: s for name, s in self.linear.items() if name in self.language and _POOLER not in name.split(".")
        }
        return MappingProxyType(chosen)

    def to_plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "linear": {name: [shape.in_features, shape.out_features] for name, shape in self.linear.items()},
            "language": sorted(self.language),
            "transposed": sorted(self.transposed),
            "experts": {name: list(shape) for name, shape in self.experts.items()},
            "parameters": self.parameters,
            "config": dict(self.config),
            "dtype": self.dtype,
            "generates": self.generates,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> BaseModules:
        """Raises KeyError, TypeError or ValueError for what `to_plain` did not write."""
        return cls(
            linear=MappingProxyType(
                {str(name): LinearShape(int(a), int(b)) for name, (a, b) in plain["linear"].items()}
            ),
            language=frozenset(plain["language"]),
            transposed=frozenset(plain["transposed"]),
            experts=MappingProxyType({str(name): tuple(shape) for name, shape in plain["experts"].items()}),
            parameters=int(plain["parameters"]),
            config=MappingProxyType(dict(plain["config"])),
            dtype=str(plain["dtype"]),
            generates=bool(plain["generates"]),
        )


def can_build() -> bool:
    """Whether torch and transformers are installed here. Imports neither."""
    return find_spec("torch") is not None and find_spec("transformers") is not None


def modules_elsewhere(folder: Path) -> BaseModules:
    """`base_modules.read_modules` in a process of its own. Raises BaseModelError."""
    command = [sys.executable, "-m", "loradock_adapters.base_modules", str(folder)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_BUILD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BaseModelError(f"{folder}: transformers did not build this model in {_BUILD_SECONDS} s") from error
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
        if "error" not in answer:
            return BaseModules.from_plain(answer)
    except (ValueError, IndexError, KeyError, TypeError) as error:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise BaseModelError(f"{folder}: transformers cannot build this model; its process said: {said}") from error
    raise BaseModelError(answer["error"])
