"""The check of an adapter that is yet to be trained: its configuration, base, modules and size, by the same rules.

It knows no file; what can only be seen in tensors is checked when they are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loradock_adapters.base_model import BaseModel
from loradock_adapters.check.base_rules import check_base
from loradock_adapters.check.codes import Code
from loradock_adapters.check.config_rules import check_config
from loradock_adapters.check.findings import Findings, listed
from loradock_adapters.check.limits import Limits
from loradock_adapters.faults import Report
from loradock_adapters.peft_folder import CONFIG_FILE, WEIGHTS_FILE

_BYTES = 2  # of a number as it is written, in bf16
_HEADS = frozenset({"lm_head", "embed_tokens"})


def check_planned(config: Mapping[str, Any], base: BaseModel, limits: Limits | None = None) -> Report:
    """Judge the configuration that training would write, as `adapter_config.json` has it."""
    limits = limits or Limits()
    findings = Findings()
    facts = check_config(config, limits, findings)
    check_base(facts.base_name, {}, base, findings)
    targets = facts.targets
    chosen = [module for module in base.modules if targets.known and targets.selects(module)]
    last_names = {module.rpartition(".")[2] for module in base.modules}
    if heads := sorted(targets.names & _HEADS):
        findings.fault(
            Code.EMBEDDING, CONFIG_FILE, f"target_modules has {listed(heads)}", "the engine adapts linear layers only"
        )
    unknown = sorted(name for name in targets.names - _HEADS if not any(map(_ends_with(name), base.modules)))
    if unknown or not chosen:
        findings.fault(
            Code.UNKNOWN_MODULE,
            CONFIG_FILE,
            f"target_modules has {listed(unknown)}" if unknown else "target_modules selects nothing",
            f"{base.name} has {', '.join(sorted(last_names))}",
            "name modules of the base model",
        )
    numbers = sum(
        facts.rank_of(module) * (base.modules[module].in_features + base.modules[module].out_features)
        for module in chosen
    )
    if numbers * _BYTES > limits.max_bytes:
        findings.fault(
            Code.TOO_LARGE, WEIGHTS_FILE, f"{numbers * _BYTES} bytes", f"this server allows {limits.max_bytes}"
        )
    return Report(
        faults=findings.faults,
        notes=findings.notes,
        rank=facts.highest_rank,
        alpha=facts.alpha,
        target_modules=tuple(sorted({module.rpartition(".")[2] for module in chosen})),
        parameters=numbers,
        size_bytes=numbers * _BYTES,
    )


def _ends_with(name: str) -> Any:
    return lambda module: module == name or module.endswith("." + name)
