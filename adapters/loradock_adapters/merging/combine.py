"""Several adapters of one base made into one, by PEFT's weighted merging. The result is an adapter like any other.

`cat` is the exact weighted sum of what they do, and its rank the sum of theirs. The others mix the two factors of each
module apart from each other and keep the rank: cheaper to serve, and not the sum.
"""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from loradock_adapters.base_model import BaseModel
from loradock_adapters.faults import Report
from loradock_adapters.merging.errors import MergeError
from loradock_adapters.merging.servable import HIGHEST_RANK, require_servable
from loradock_adapters.training.export import write_adapter
from loradock_adapters.training.manifest import AdapterFacts

Method = Literal["linear", "ties", "dare_linear", "dare_ties", "cat"]
DENSE_METHODS = frozenset({"ties", "dare_linear", "dare_ties"})
_NAME = "combined"


@dataclass(frozen=True, slots=True)
class Part:
    """An adapter's folder and how much of it."""

    folder: Path
    weight: float = 1.0


def combine(
    parts: Sequence[Part],
    base_folder: Path,
    out: Path,
    *,
    method: Method,
    density: float = 0.5,
    seed: int = 1,
) -> AdapterFacts:
    """Write the combined adapter to the new folder `out`, complete or not at all.

    `density` is the share of numbers that ties and dare keep; dare draws them by `seed`. Raises MergeError,
    AdapterRejected, AdapterUnreadable, BaseModelError.
    """
    if out.exists():
        raise MergeError(f"{out} exists; move it away or choose another --out")
    base = BaseModel.read(base_folder)
    reports = [require_servable(part.folder, base) for part in parts]
    _require_fit(parts, reports, method, density)
    model = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.bfloat16, local_files_only=True)
    names = [f"part-{number}" for number in range(len(parts))]
    peft = PeftModel.from_pretrained(model, parts[0].folder, adapter_name=names[0], autocast_adapter_dtype=False)
    for name, part in zip(names[1:], parts[1:], strict=True):
        peft.load_adapter(part.folder, adapter_name=name, autocast_adapter_dtype=False)
    peft.float()
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about names of adapters, which are ours
        peft.add_weighted_adapter(
            names,
            [part.weight for part in parts],
            _NAME,
            combination_type=method,
            density=density if method in DENSE_METHODS else None,
        )
    peft.set_adapter(_NAME)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        made = Path(scratch) / out.name
        facts = write_adapter(peft, made, base_name=base.hub_id or base.name, adapter_name=_NAME)
        require_servable(made, base)
        made.replace(out)
    return facts


def _require_fit(parts: Sequence[Part], reports: Sequence[Report], method: Method, density: float) -> None:
    if len(parts) < 2:
        raise MergeError("one adapter alone cannot be combined; name two or more")
    if bad := [part.weight for part in parts if not math.isfinite(part.weight) or part.weight == 0]:
        raise MergeError(f"a weight is {bad[0]}; give numbers other than 0")
    if not 0 < density <= 1:
        raise MergeError(f"the density is {density}; it is above 0 and at most 1")
    ranks = [report.rank for report in reports]
    if method != "cat" and len(set(ranks)) > 1:
        raise MergeError(
            f"the adapters have ranks {', '.join(map(str, ranks))}; {method} takes adapters of one rank: use cat"
        )
    if method == "cat" and sum(ranks) > HIGHEST_RANK:
        raise MergeError(f"the ranks add up to {sum(ranks)}; at most {HIGHEST_RANK} can be written")
    targets = {tuple(sorted(report.target_modules)) for report in reports}
    if len(targets) > 1:
        raise MergeError("the adapters are on different modules; train them on the same ones to combine them")
