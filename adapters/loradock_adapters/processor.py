"""What this machine's processor can do, as Linux tells it: asked before anything that needs it is imported or compiled.

Knows no torch, no numba and no engine; they are told what to use from here.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

CPUINFO = Path("/proc/cpuinfo")

# Names as /proc/cpuinfo has them.
_AVX2 = frozenset({"avx2", "fma", "f16c"})
_AVX512 = frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})
_BF16 = "avx512_bf16"

Level = Literal["none", "avx2", "avx512", "avx512-bf16"]


@dataclass(frozen=True, slots=True)
class Processor:
    """`name`: the model's, for people. `features`: the instruction sets that every core has, in Linux's words."""

    name: str
    features: frozenset[str]

    @classmethod
    def here(cls, cpuinfo: Path = CPUINFO) -> Processor:
        """This machine's; without /proc, one with no features that anything could rely on."""
        try:
            lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            lines = []
        fields = [(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in lines)]
        names = [value for key, value in fields if key == "model name"]
        features = [frozenset(value.split()) for key, value in fields if key == "flags"]
        return cls(
            names[0] if names else platform.processor() or platform.machine(),
            # What only some cores have cannot be used: the system moves threads between them.
            frozenset.intersection(*features) if features else frozenset(),
        )

    @property
    def level(self) -> Level:
        """The highest of the levels that software is compiled for."""
        if not self.features >= _AVX2:
            return "none"
        if not self.features >= _AVX512:
            return "avx2"
        return "avx512-bf16" if _BF16 in self.features else "avx512"

    @property
    def multiplies_bf16(self) -> bool:
        """Whether it has instructions for products of bfloat16; without them float32 is several times faster."""
        return self.level == "avx512-bf16"

    @property
    def description(self) -> str:
        """Name and level, as logs and tables show them."""
        return f"{self.name} ({self.level})"
