"""What adapter_config.json must say for vLLM to serve the adapter as PEFT would run it.

vLLM reads few of PEFT's fields and ignores the rest in silence; every field that changes the outcome and that
it does not honour is a fault here. It knows no tensor.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from loradock_adapters.check.findings import Findings, shortened
from loradock_adapters.check.limits import Limits
from loradock_adapters.peft_folder import CONFIG_FILE

# Initialisations after which the base model stays as it was (the others change its weights when PEFT loads).
_PLAIN_INITS = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})

_RETRAIN = "train the adapter without it, or merge it into the base model"

_UNSUPPORTED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    # field: (is this value supported, the fix)
    "bias": (lambda v: v in (None, "none"), 'train with bias="none"'),
    "lora_bias": (lambda v: not v, "train with lora_bias=False"),
    "use_dora": (lambda v: not v, "train with use_dora=False, or merge the adapter into the base model"),
    "use_qalora": (lambda v: not v, _RETRAIN),
    "use_bdlora": (lambda v: not v, _RETRAIN),
    "modules_to_save": (
        lambda v: not v,
        "train without modules_to_save; embeddings and heads stay the base's",
    ),
    "trainable_token_indices": (lambda v: not v, "do not add tokens in training (check the chat template)"),
    "layer_replication": (lambda v: not v, _RETRAIN),
    "alora_invocation_tokens": (lambda v: not v, _RETRAIN),
    "target_parameters": (lambda v: not v, "target linear modules only, by target_modules"),
    "arrow_config": (lambda v: not v, _RETRAIN),
    "kasa_config": (lambda v: not v, _RETRAIN),
    "monteclora_config": (lambda v: not v, _RETRAIN),
    "megatron_config": (lambda v: not v, _RETRAIN),
    "init_lora_weights": (
        lambda v: not isinstance(v, str) or v.lower() in _PLAIN_INITS,
        "convert it with PEFT's path_initial_model_for_weight_conversion",
    ),
}

# rank_pattern and alpha_pattern keys are regular expressions that the engine runs. Names, dots, anchors,
# classes and a few plain quantifiers are what people write; what could run for ever is refused.
_SAFE_PATTERN = re.compile(r"\^?(?:[A-Za-z0-9_.|$-]|\\[.d]|\[[A-Za-z0-9_-]+\]|\([A-Za-z0-9_.|]+\)(?![*+?{])|[*+?])+")
_MAX_PATTERN = 256
_MAX_PATTERNS = 2048
_MAX_QUANTIFIERS = 3


@dataclass(frozen=True, slots=True)
class LoraFacts:
    """What the configuration says, with harmless values where it was faulty.

    `targets` is None when they are a pattern. `every_layer` tells that nothing narrows the targets down.
    """

    rank: int = 0
    alpha: float = 0.0
    targets: tuple[str, ...] | None = None
    every_layer: bool = False
    rank_pattern: tuple[tuple[re.Pattern[str], int], ...] = ()
    base_name: str = ""

    def rank_of(self, module: str) -> int:
        """The rank of one module, as PEFT and vLLM match it: by the first pattern to fit its end."""
        return next((rank for pattern, rank in self.rank_pattern if pattern.match(module)), self.rank)

    @property
    def highest_rank(self) -> int:
        return max([self.rank, *(rank for _, rank in self.rank_pattern)])


def check_config(config: Mapping[str, Any], limits: Limits, findings: Findings) -> LoraFacts:
    """Write every fault of the configuration down, and return what it says."""
    kind = config.get("peft_type")
    if kind != "LORA":
        findings.fault(
            "peft_type",
            CONFIG_FILE,
            f"peft_type is {_json(kind)}",
            "only LORA can be served",
            "train a LoRA adapter",
        )
    for name, (supported, fix) in _UNSUPPORTED.items():
        if not supported(config.get(name)):
            findings.fault(
                "unsupported_feature",
                CONFIG_FILE,
                f"{name} is {_json(config[name])}",
                "the engine does not implement this",
                fix,
            )
    facts = _read(config, findings)
    if facts.highest_rank > limits.max_rank:
        findings.fault(
            "rank",
            CONFIG_FILE,
            f"rank {facts.highest_rank}",
            f"this server allows {limits.max_rank}",
            "raise LORADOCK_MAX_RANK, or train with a lower r",
        )
    for pattern, value in _pattern(config, "alpha_pattern", findings).items():
        _alpha(value, f"alpha_pattern[{pattern!r}]", findings)
    return facts


def _read(config: Mapping[str, Any], findings: Findings) -> LoraFacts:
    base = config.get("base_model_name_or_path")
    return LoraFacts(
        rank=_rank(config.get("r"), "r", findings),
        alpha=_alpha(config.get("lora_alpha"), "lora_alpha", findings),
        targets=_targets(config, findings),
        every_layer=not any(config.get(name) for name in ("exclude_modules", "layers_pattern"))
        and config.get("layers_to_transform") is None,
        rank_pattern=_rank_pattern(config, findings),
        base_name=base if isinstance(base, str) else "",
    )


def _targets(config: Mapping[str, Any], findings: Findings) -> tuple[str, ...] | None:
    value = config.get("target_modules")
    if isinstance(value, str) and value:
        return None  # a pattern of PEFT's; the engine goes by the tensors
    if isinstance(value, list) and value and all(isinstance(item, str) and item for item in value):
        return tuple(sorted(set(value)))
    findings.fault(
        "config_value",
        CONFIG_FILE,
        f"target_modules is {_json(value)}",
        "it must be a list of module names",
        "save the adapter with PEFT's save_pretrained",
    )
    return None


def _rank(value: Any, name: str, findings: Findings) -> int:
    if type(value) is int and 1 <= value < 1 << 31:
        return value
    findings.fault(
        "config_value",
        CONFIG_FILE,
        f"{name} is {_json(value)}",
        "a rank is a positive whole number",
        "save the adapter with PEFT's save_pretrained",
    )
    return 0


def _alpha(value: Any, name: str, findings: Findings) -> float:
    if type(value) in (int, float) and 0 < value < 1e30 and math.isfinite(value):
        return float(value)
    findings.fault(
        "config_value",
        CONFIG_FILE,
        f"{name} is {_json(value)}",
        "alpha is a positive number",
        "save the adapter with PEFT's save_pretrained",
    )
    return 0.0


def _rank_pattern(config: Mapping[str, Any], findings: Findings) -> tuple[tuple[re.Pattern[str], int], ...]:
    return tuple(
        (_compiled(pattern), _rank(value, f"rank_pattern[{pattern!r}]", findings))
        for pattern, value in _pattern(config, "rank_pattern", findings).items()
    )


def _pattern(config: Mapping[str, Any], name: str, findings: Findings) -> dict[str, Any]:
    value = config.get(name) or {}
    if not isinstance(value, dict):
        findings.fault("config_value", CONFIG_FILE, f"{name} is {_json(value)}", "it must be an object", "leave it out")
        return {}
    if len(value) > _MAX_PATTERNS:
        findings.fault(
            "pattern",
            CONFIG_FILE,
            f"{name} has {len(value)} entries",
            f"at most {_MAX_PATTERNS}",
            "leave some out",
        )
        return {}
    safe = {key: item for key, item in value.items() if _is_safe(key)}
    for key in value.keys() - safe.keys():
        findings.fault(
            "pattern",
            CONFIG_FILE,
            f"{name} has the pattern {key!r}",
            f"{_MAX_PATTERN} characters: names, dots, classes, at most {_MAX_QUANTIFIERS} quantifiers",
            "write module names out",
        )
    return safe


def _is_safe(pattern: str) -> bool:
    if len(pattern) > _MAX_PATTERN or not _SAFE_PATTERN.fullmatch(pattern):
        return False
    if len(re.findall(r"[*+?]", pattern)) > _MAX_QUANTIFIERS:
        return False
    try:
        _compiled(pattern)
    except re.error:
        return False
    return True


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({pattern})$")


def _json(value: Any) -> str:
    return shortened(repr(value), 80)
