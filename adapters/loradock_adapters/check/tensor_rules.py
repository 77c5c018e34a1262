"""What an adapter's tensors must be: complete A/B pairs for the base model's linear modules, as the configuration says.

vLLM ignores a tensor that fits no module and would then answer as the base model; here it is a fault.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from loradock_adapters.base_model import BaseModel, LinearShape
from loradock_adapters.check.codes import Code, NoteCode
from loradock_adapters.check.config_facts import LoraFacts
from loradock_adapters.check.findings import Findings, listed, shortened
from loradock_adapters.check.foreign import EMBEDDINGS
from loradock_adapters.check.key_rules import Keys, Pairs
from loradock_adapters.check.targets import Targets, endings
from loradock_adapters.peft_folder import CONFIG_FILE, WEIGHTS_FILE
from loradock_adapters.safetensors_header import TensorFile, TensorInfo

DTYPES = ("F32", "BF16", "F16")

_GATHER = "save the adapter again, after gathering its shards (DeepSpeed ZeRO-3, FSDP)"


def check_tensors(file: TensorFile, keys: Keys, facts: LoraFacts, base: BaseModel | None, findings: Findings) -> None:
    """Check pairs, shapes, ranks and types, and that nothing targeted is missing."""
    for module, pair in keys.pairs.items():
        _check_pair(module, pair, findings)
        if base is None or module in base.layers:
            _check_ranks(pair, facts.rank_of(module), findings)
        if base is not None:
            _check_against_base(module, pair, base, findings)
    if base is not None:
        _check_served(keys.pairs, base, findings)
    if not file.tensors:
        findings.fault(Code.NO_TENSORS, WEIGHTS_FILE, "no tensors", "an adapter has A and B tensors")
    _check_names(keys.pairs, facts, base, findings)
    if facts.targets.known:
        _check_selection(keys, facts.targets, base, findings)


def _check_pair(module: str, pair: Mapping[str, TensorInfo], findings: Findings) -> None:
    for side in "AB":
        if side not in pair:
            findings.fault(
                Code.INCOMPLETE_PAIR,
                f"{WEIGHTS_FILE}: {module}",
                f"lora_{side} is missing",
                "every module needs lora_A and lora_B",
            )
    for info in pair.values():
        where = f"{WEIGHTS_FILE}: {info.name}"
        if info.dtype not in DTYPES:
            findings.fault(Code.DTYPE, where, f"type {info.dtype}", f"{', '.join(DTYPES)} can be served")
        if not _is_matrix(info):
            findings.fault(Code.SHAPE, where, f"shape {info.shape}", "a matrix, not an empty one", _GATHER)


def _check_ranks(pair: Mapping[str, TensorInfo], expected: int, findings: Findings) -> None:
    for side, info in pair.items():
        rank = info.shape[0 if side == "A" else 1] if _is_matrix(info) else expected
        if expected and rank != expected:
            findings.fault(
                Code.RANK_MISMATCH,
                f"{WEIGHTS_FILE}: {info.name}",
                f"rank {rank}",
                f"{CONFIG_FILE} says {expected}",
            )


def _check_against_base(module: str, pair: Mapping[str, TensorInfo], base: BaseModel, findings: Findings) -> None:
    shape = base.layers.get(module)
    if shape is None:
        findings.fault(
            Code.UNKNOWN_MODULE,
            f"{WEIGHTS_FILE}: {module}",
            "the base model has no such linear module",
            f"the base model is {base.name}" + ("" if findings.full(Code.UNKNOWN_MODULE) else _nearest(module, base)),
        )
        return
    for side, info in pair.items():
        if _is_matrix(info) and not _fits(side, info, shape):
            needed = f"(rank, {shape.in_features})" if side == "A" else f"({shape.out_features}, rank)"
            findings.fault(
                Code.SHAPE, f"{WEIGHTS_FILE}: {info.name}", f"shape {info.shape}", f"{base.name} needs {needed}"
            )


def _check_served(pairs: Pairs, base: BaseModel, findings: Findings) -> None:
    """Weights for what answers no text may be there, but not alone."""
    idle = sorted(module for module in pairs if module in base.others)
    if not idle:
        return
    if any(module in base.modules for module in pairs):
        count = "1 module has" if len(idle) == 1 else f"{len(idle)} modules have"
        text = f"{count} no part in answers to text; what trained there is left out, such as {shortened(idle[0])}"
        findings.note(NoteCode.NOT_APPLIED, text)
    else:
        findings.fault(
            Code.NO_EFFECT,
            f"{WEIGHTS_FILE}: {idle[0]}",
            "has no part in answers to text, and no other module is touched",
            f"{base.name} takes adapters on its language model",
            "train modules of the language model",
        )


def _check_names(pairs: Pairs, facts: LoraFacts, base: BaseModel | None, findings: Findings) -> None:
    unused: list[str] = []
    meant = {name for module in (*pairs, *(base.layers if base else ())) for name in endings(module)}
    for name in sorted(facts.targets.names):
        if name.rpartition(".")[2] in EMBEDDINGS:
            findings.fault(
                Code.EMBEDDING,
                f"{CONFIG_FILE}: target_modules",
                shortened(name),
                "the engine serves adapters of linear layers only",
            )
        elif name not in meant:
            if base is None:
                findings.fault(
                    Code.MISSING_TENSORS, f"{CONFIG_FILE}: target_modules", f"{name} has no tensors", "at least one"
                )
            else:
                unused.append(name)
    if unused and base is not None:
        findings.note(
            NoteCode.UNUSED_TARGET, f"targets that neither {base.name} nor the tensors have: {listed(unused)}"
        )


def _check_selection(keys: Keys, targets: Targets, base: BaseModel | None, findings: Findings) -> None:
    for module in keys.pairs:
        old = keys.called.get(module, module)
        if (base is None or module in base.layers) and not targets.selects(module) and not targets.selects(old):
            findings.fault(
                Code.UNTARGETED_TENSORS,
                f"{WEIGHTS_FILE}: {module}",
                "target_modules does not select it",
                "PEFT would not load it",
            )
    for module in base.modules if base else ():
        if module not in keys.pairs and targets.selects(module):
            findings.fault(
                Code.MISSING_TENSORS, f"{CONFIG_FILE}: target_modules", f"no tensors for {module}", "it is targeted"
            )


def _is_matrix(info: TensorInfo) -> bool:
    return len(info.shape) == 2 and 0 not in info.shape


def _fits(side: str, info: TensorInfo, shape: LinearShape) -> bool:
    return info.shape[1] == shape.in_features if side == "A" else info.shape[0] == shape.out_features


def _nearest(module: str, base: BaseModel) -> str:
    found = difflib.get_close_matches(module, base.modules, n=1, cutoff=0.6)
    return f", its nearest is {found[0]}" if found else ""
