"""What an adapter's tensors must be: complete A/B pairs for the base model's linear modules, finite numbers.

vLLM ignores a tensor that fits no module and would then answer as the base model; here it is a fault.
"""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np

from loradock_adapters.base_model import BaseModel, LinearShape
from loradock_adapters.check.config_rules import LoraFacts
from loradock_adapters.check.findings import Findings
from loradock_adapters.errors import AdapterUnreadable
from loradock_adapters.peft_folder import CONFIG_FILE, TENSOR_PREFIX, TENSOR_SUFFIXES, WEIGHTS_FILE
from loradock_adapters.safetensors_header import TensorFile, TensorInfo

DTYPES = ("F32", "BF16", "F16")
EMBEDDINGS = ("embed_tokens", "lm_head", "wte", "wpe", "embed_in", "embed_out", "word_embeddings")

_AS_SAVED = "save the adapter with PEFT's save_pretrained"
_OTHER_BASE = "train on the base model that is served here"

Pairs = Mapping[str, Mapping[str, TensorInfo]]


def check_tensors(file: TensorFile, facts: LoraFacts, base: BaseModel | None, findings: Findings) -> Pairs:
    """Check names, shapes and types; return the tensors by module and side ("A", "B")."""
    pairs: dict[str, dict[str, TensorInfo]] = defaultdict(dict)
    for info in file.tensors.values():
        found = _module_of(info, findings)
        if found is not None:
            pairs[found[0]][found[1]] = info
    for module, pair in pairs.items():
        _check_pair(module, pair, facts, findings)
        if base is not None:
            _check_against_base(module, pair, base, findings)
    if not file.tensors:
        findings.fault("no_tensors", WEIGHTS_FILE, "no tensors", "an adapter has A and B tensors", _AS_SAVED)
    _check_targets(pairs, facts, base, findings)
    return pairs


def check_numbers(file: TensorFile, pairs: Pairs, findings: Findings) -> None:
    """Read every tensor, one at a time: none may hold NaN or infinity, and not all B may be zero."""
    changes_nothing = bool(pairs)
    for pair in pairs.values():
        for side, info in pair.items():
            if info.dtype not in DTYPES:
                changes_nothing = False
                continue
            try:
                values = file.read(info.name)
            except AdapterUnreadable as error:
                findings.fault("unreadable", WEIGHTS_FILE, str(error), "every tensor must be readable", _AS_SAVED)
                return
            finite = np.isfinite(values)
            if not finite.all():
                findings.fault(
                    "not_finite",
                    f"{WEIGHTS_FILE}: {info.name}",
                    f"{int(values.size - finite.sum())} of {values.size} numbers are NaN or infinite",
                    "all must be finite",
                    "training diverged: lower the learning rate and train again",
                )
            if side == "B" and values.any():
                changes_nothing = False
    if changes_nothing and any("B" in pair for pair in pairs.values()):
        findings.fault(
            "untrained",
            WEIGHTS_FILE,
            "every B tensor is zero",
            "such an adapter changes nothing",
            "train it, or save it after training",
        )


def _module_of(info: TensorInfo, findings: Findings) -> tuple[str, str] | None:
    where = f"{WEIGHTS_FILE}: {info.name}"
    parts = info.name.split(".")
    if any(part in EMBEDDINGS or part.startswith("lora_embedding_") for part in parts):
        findings.fault(
            "embedding",
            where,
            "a tensor of the embeddings or the output head",
            "the engine serves adapters of linear layers only",
            "train without lm_head and embed_tokens in target_modules, and without new tokens",
        )
        return None
    side = next((side for suffix, side in TENSOR_SUFFIXES.items() if info.name.endswith(suffix)), None)
    if side is None or not info.name.startswith(TENSOR_PREFIX):
        findings.fault(
            "unknown_tensor",
            where,
            "no LoRA weight by its name",
            f"names are {TENSOR_PREFIX}<module>.lora_A.weight and .lora_B.weight",
            _AS_SAVED,
        )
        return None
    if info.dtype not in DTYPES:
        findings.fault("dtype", where, f"type {info.dtype}", f"{', '.join(DTYPES)} can be served", "convert it")
    return info.name[len(TENSOR_PREFIX) : -len(".lora_A.weight")], side


def _check_pair(module: str, pair: Mapping[str, TensorInfo], facts: LoraFacts, findings: Findings) -> None:
    for side in "AB":
        if side not in pair:
            findings.fault(
                "incomplete_pair",
                f"{WEIGHTS_FILE}: {module}",
                f"lora_{side} is missing",
                "every module needs lora_A and lora_B",
                _AS_SAVED,
            )
    expected = facts.rank_of(module)
    for side, info in pair.items():
        if len(info.shape) != 2:
            findings.fault("shape", f"{WEIGHTS_FILE}: {info.name}", f"shape {info.shape}", "two dimensions", _AS_SAVED)
        elif expected and (rank := info.shape[0 if side == "A" else 1]) != expected:
            findings.fault(
                "rank_mismatch",
                f"{WEIGHTS_FILE}: {info.name}",
                f"rank {rank}",
                f"{CONFIG_FILE} says {expected}",
                "keep the configuration and the weights of one training run together",
            )


def _check_against_base(module: str, pair: Mapping[str, TensorInfo], base: BaseModel, findings: Findings) -> None:
    shape = base.modules.get(module)
    if shape is None:
        findings.fault(
            "unknown_module",
            f"{WEIGHTS_FILE}: {module}",
            "the base model has no such linear module",
            f"the base model is {base.name}" + ("" if findings.full("unknown_module") else _nearest(module, base)),
            _OTHER_BASE,
        )
        return
    for side, info in pair.items():
        if len(info.shape) == 2 and not _fits(side, info, shape):
            needed = f"(rank, {shape.in_features})" if side == "A" else f"({shape.out_features}, rank)"
            findings.fault(
                "shape",
                f"{WEIGHTS_FILE}: {info.name}",
                f"shape {info.shape}",
                f"{base.name} needs {needed}",
                _OTHER_BASE,
            )


def _check_targets(pairs: Pairs, facts: LoraFacts, base: BaseModel | None, findings: Findings) -> None:
    for target in facts.targets or ():
        if target.rpartition(".")[2] in EMBEDDINGS:
            findings.fault(
                "embedding",
                f"{CONFIG_FILE}: target_modules",
                target,
                "the engine serves adapters of linear layers only",
                "train without it",
            )
            continue
        trained = set(_matching(target, pairs))
        possible = set() if base is None else set(_matching(target, base.modules))
        if not trained and base is not None and not possible:
            findings.warn(f"target module {target!r} exists neither in {base.name} nor among the tensors")
        elif not trained or (facts.every_layer and possible - trained):
            missing = sorted(possible - trained)
            findings.fault(
                "missing_tensors",
                f"{CONFIG_FILE}: target_modules",
                f"{target} has tensors for {len(trained)} modules" + (f", none for {missing[0]}" if missing else ""),
                f"{base.name} has {len(possible)}" if base is not None else "at least one",
                "the weights file is incomplete: save the adapter again",
            )
    if facts.targets is not None:
        for module in pairs:
            if not any(_matches(target, module) for target in facts.targets):
                findings.fault(
                    "untargeted_tensors",
                    f"{WEIGHTS_FILE}: {module}",
                    "target_modules does not name it",
                    "PEFT would not load it",
                    "keep the configuration and the weights of one training run together",
                )


def _matching(target: str, modules: Iterable[str]) -> Iterable[str]:
    return (module for module in modules if _matches(target, module))


def _matches(target: str, module: str) -> bool:
    return module == target or module.endswith(f".{target}")


def _fits(side: str, info: TensorInfo, shape: LinearShape) -> bool:
    return info.shape[1] == shape.in_features if side == "A" else info.shape[0] == shape.out_features


def _nearest(module: str, base: BaseModel) -> str:
    found = difflib.get_close_matches(module[:200], base.modules, n=1, cutoff=0.6)
    return f", its nearest is {found[0]}" if found else ""
