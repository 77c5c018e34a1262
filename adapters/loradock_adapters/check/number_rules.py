"""What an adapter's numbers must be: finite, also as the engine computes with them, and not without any effect.

It reads every tensor, one at a time, and folds the scale into B as the engine does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from loradock_adapters.check.codes import Code
from loradock_adapters.check.config_facts import LoraFacts
from loradock_adapters.check.findings import Findings
from loradock_adapters.check.key_rules import Pairs
from loradock_adapters.check.tensor_rules import DTYPES
from loradock_adapters.peft_folder import WEIGHTS_FILE
from loradock_adapters.safetensors_header import TensorFile, TensorInfo

# Beyond these, rounding to the type gives infinity.
_LIMITS = {"float16": 65520.0, "bfloat16": 3.3961775e38}


def check_numbers(file: TensorFile, pairs: Pairs, facts: LoraFacts, dtype: str | None, findings: Findings) -> None:
    """`dtype`: what the engine computes in, None where nobody knows. Raises AdapterUnreadable."""
    changes_nothing = True
    for module, pair in pairs.items():
        acting = []
        for side, info in pair.items():
            if info.dtype not in DTYPES:
                changes_nothing = False
                continue
            values = file.read(info.name)
            if _check_finite(info, values, findings):
                scale = facts.scale_of(module) if side == "B" else 1.0
                acting.append(_check_folded(info, values, scale, dtype, findings))
            else:
                changes_nothing = False
        changes_nothing &= len(acting) < 2 or not all(acting)
    if changes_nothing and any(len(pair) == 2 for pair in pairs.values()):
        findings.fault(
            Code.NO_EFFECT, WEIGHTS_FILE, "lora_B or lora_A of every module is zero", "such an adapter changes nothing"
        )


def _check_finite(info: TensorInfo, values: NDArray[Any], findings: Findings) -> bool:
    bad = values.size - int(np.isfinite(values).sum())
    if bad:
        findings.fault(
            Code.NOT_FINITE,
            f"{WEIGHTS_FILE}: {info.name}",
            f"{bad} of {values.size} numbers are NaN or infinite",
            "all must be finite",
        )
    return not bad


def _check_folded(info: TensorInfo, values: NDArray[Any], scale: float, dtype: str | None, findings: Findings) -> bool:
    """Whether anything but zeros reaches the engine."""
    if not values.size:
        return False
    largest = float(np.abs(values).max()) * scale
    limit = _LIMITS.get(dtype or "", np.finfo(np.float32).max)
    if largest >= limit:
        findings.fault(
            Code.OVERFLOW,
            f"{WEIGHTS_FILE}: {info.name}",
            f"{largest:.4g} with the scale {scale:.4g} folded in",
            f"{dtype or 'float32'} ends before {limit:.5g}",
        )
    smallest = 2.0**-25 if dtype == "float16" else 0.0  # half of the smallest step rounds to zero
    return largest > smallest
