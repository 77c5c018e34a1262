"""What adapter_config.json must say for vLLM to serve the adapter as PEFT would run it.

vLLM reads few of PEFT's fields and ignores the rest in silence; every field that changes the outcome and that
it does not honour is a fault here. It knows no tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from loradock_adapters.check.codes import Code, NoteCode
from loradock_adapters.check.config_facts import LoraFacts
from loradock_adapters.check.fields import KNOWN_FIELDS
from loradock_adapters.check.findings import Findings, listed, shortened
from loradock_adapters.check.limits import Limits
from loradock_adapters.check.patterns import MAX_LENGTH, MAX_QUANTIFIERS, ending, is_safe, quantifiers
from loradock_adapters.check.targets import Targets
from loradock_adapters.peft_folder import CONFIG_FILE

# Initialisations after which the base model stays as it was (the others change its weights when PEFT loads).
_PLAIN_INITS = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})
_MAX_PATTERNS = 2048
_MAX_QUANTIFIED = 64  # each of them may take half a millisecond for a module


def _unset(value: Any) -> bool:
    return not value


_FEATURES: Mapping[str, tuple[Code, Callable[[Any], bool]]] = {
    # field: (the fault, whether this value is what the engine does)
    "bias": (Code.BIAS, lambda value: value in (None, "none")),
    "lora_bias": (Code.LORA_BIAS, _unset),
    "use_dora": (Code.DORA, _unset),
    "use_qalora": (Code.QALORA, _unset),
    "use_bdlora": (Code.BD_LORA, _unset),
    "modules_to_save": (Code.MODULES_TO_SAVE, _unset),
    "trainable_token_indices": (Code.TRAINABLE_TOKENS, _unset),
    "layer_replication": (Code.LAYER_REPLICATION, _unset),
    "alora_invocation_tokens": (Code.ALORA, _unset),
    "target_parameters": (Code.TARGET_PARAMETERS, _unset),
    "arrow_config": (Code.VARIANT, _unset),
    "kasa_config": (Code.VARIANT, _unset),
    "monteclora_config": (Code.VARIANT, _unset),
    "megatron_config": (Code.VARIANT, _unset),
    "init_lora_weights": (
        Code.UNCONVERTED_INIT,
        lambda value: not isinstance(value, str) or value.lower() in _PLAIN_INITS,
    ),
}


def check_config(config: Mapping[str, Any], limits: Limits, findings: Findings) -> LoraFacts:
    """Write every fault of the configuration down, and return what it says."""
    kind = config.get("peft_type")
    base = config.get("base_model_name_or_path")
    base_name = base if isinstance(base, str) else ""
    if kind != "LORA":
        findings.fault(Code.PEFT_TYPE, CONFIG_FILE, f"peft_type is {_shown(kind)}", "only LORA can be served")
        return LoraFacts(base_name=base_name, is_lora=False)  # other methods' fields are none of ours
    for name, (code, supported) in _FEATURES.items():
        if not supported(config.get(name)):
            findings.fault(code, CONFIG_FILE, f"{name} is {_shown(config[name])}", "the engine does not implement this")
    if str(config.get("init_lora_weights")).lower() == "lora_ga":
        findings.note(
            NoteCode.UNCONVERTED_LORA_GA,
            "init_lora_weights is 'lora_ga': in training the base model was shifted, here it is not; "
            "save the adapter with path_initial_model_for_weight_conversion",
        )
    if unknown := [name for name, value in config.items() if name not in KNOWN_FIELDS and value]:
        findings.note(NoteCode.UNKNOWN_FIELD, f"{CONFIG_FILE} sets fields unknown here: {listed(unknown)}")
    facts = LoraFacts(
        rank=_rank(config.get("r"), "r", findings),
        alpha=_alpha(config.get("lora_alpha"), "lora_alpha", findings),
        rslora=bool(config.get("use_rslora")),
        targets=Targets.read(config, findings),
        rank_pattern=tuple(
            (ending(pattern), _rank(value, f"rank_pattern[{pattern!r}]", findings))
            for pattern, value in _patterns(config, "rank_pattern", findings).items()
        ),
        alpha_pattern=tuple(
            (ending(pattern), _alpha(value, f"alpha_pattern[{pattern!r}]", findings))
            for pattern, value in _patterns(config, "alpha_pattern", findings).items()
        ),
        base_name=base_name,
    )
    if facts.highest_rank > limits.max_rank:
        findings.fault(Code.RANK, CONFIG_FILE, f"rank {facts.highest_rank}", f"this server allows {limits.max_rank}")
    return facts


def _rank(value: Any, name: str, findings: Findings) -> int:
    if type(value) is int and 1 <= value < 1 << 31:
        return value
    findings.fault(Code.CONFIG_VALUE, CONFIG_FILE, f"{name} is {_shown(value)}", "a rank is a positive whole number")
    return 0


def _alpha(value: Any, name: str, findings: Findings) -> float:
    if type(value) in (int, float) and 0 < value < 1e30 and math.isfinite(value):
        return float(value)
    findings.fault(Code.CONFIG_VALUE, CONFIG_FILE, f"{name} is {_shown(value)}", "alpha is a positive number")
    return 0.0


def _patterns(config: Mapping[str, Any], name: str, findings: Findings) -> dict[str, Any]:
    value = config.get(name) or {}
    if not isinstance(value, dict):
        findings.fault(
            Code.CONFIG_VALUE, CONFIG_FILE, f"{name} is {_shown(value)}", "it must be an object", "leave it out"
        )
        return {}
    if len(value) > _MAX_PATTERNS:
        findings.fault(
            Code.PATTERN, CONFIG_FILE, f"{name} has {len(value)} entries", f"at most {_MAX_PATTERNS}", "leave some out"
        )
        return {}
    safe = {key: item for key, item in value.items() if is_safe(key)}
    if (count := sum(quantifiers(key) > 0 for key in safe)) > _MAX_QUANTIFIED:
        findings.fault(
            Code.PATTERN, CONFIG_FILE, f"{name} has {count} patterns with quantifiers", f"at most {_MAX_QUANTIFIED}"
        )
        return {}
    for key in value.keys() - safe.keys():
        findings.fault(
            Code.PATTERN,
            CONFIG_FILE,
            f"{name} has the pattern {key!r}",
            f"{MAX_LENGTH} characters: names, dots, classes, at most {MAX_QUANTIFIERS} quantifiers",
        )
    return safe


def _shown(value: Any) -> str:
    return shortened(repr(value), 80)
