"""The check itself: one pass over a folder that collects every fault, then a report.

It decides nothing about who may register what; it knows the files, the base model's shapes and the limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loradock_adapters.base_model import BaseModel
from loradock_adapters.check.base_rules import check_base
from loradock_adapters.check.codes import NoteCode
from loradock_adapters.check.config_facts import LoraFacts
from loradock_adapters.check.config_rules import check_config
from loradock_adapters.check.file_rules import check_files, check_size, write_down
from loradock_adapters.check.findings import Findings
from loradock_adapters.check.key_rules import Keys, Pairs, read_keys
from loradock_adapters.check.limits import Limits
from loradock_adapters.check.number_rules import check_numbers
from loradock_adapters.check.signature_rules import check_signature
from loradock_adapters.check.tensor_rules import check_tensors
from loradock_adapters.check.tokenizer_rules import check_tokenizer
from loradock_adapters.errors import AdapterUnreadable
from loradock_adapters.faults import Report
from loradock_adapters.peft_folder import (
    CONFIG_FILE,
    MANIFEST_FILE,
    WEIGHTS_FILE,
    list_adapter_files,
    read_json,
    size_of,
)
from loradock_adapters.safetensors_header import TensorFile


@dataclass(frozen=True, slots=True)
class Judgement:
    """The report, and what a repair needs to know beside it."""

    report: Report
    facts: LoraFacts
    renames: Mapping[str, str]


def check_adapter(folder: Path, base: BaseModel | None, limits: Limits | None = None) -> Report:
    """Judge an adapter folder. Never raises for what the folder holds: that is in the report.

    Without a base model, names and shapes are checked against each other only, and a note says so. Reads
    all tensors, one at a time; blocking, some seconds per gigabyte.
    """
    return judge(folder, base, limits).report


def judge(folder: Path, base: BaseModel | None, limits: Limits | None = None) -> Judgement:
    """`check_adapter`, for who also wants to know what was read."""
    limits = limits or Limits()
    findings = Findings()
    facts, keys, size = LoraFacts(), Keys(), 0
    try:
        # 1. The files
        files, ignored = list_adapter_files(folder)
        size = size_of(folder, files)
        fit = check_files(folder, files, ignored, findings)
        bearable = check_size(folder, size, limits, findings)
        if bearable:
            _signature(folder, limits, findings)
        # 2. The configuration
        config, manifest = (_json(folder, name, fit, findings) for name in (CONFIG_FILE, MANIFEST_FILE))
        if config is not None:
            facts = check_config(config, limits, findings)
        # 3. The base model
        if base is None:
            findings.note(NoteCode.NO_BASE, "no base model given: names and shapes were not compared with one")
        else:
            check_base(facts.base_name, manifest or {}, base, findings)
            check_tokenizer(folder, base, findings)
        # 4. The tensors; those of other methods follow other rules
        if WEIGHTS_FILE in fit:
            tensors = TensorFile.open(folder / WEIGHTS_FILE)
            if facts.is_lora:
                keys = read_keys(tensors, facts, base, findings)
                check_tensors(tensors, keys, facts, base, findings)
                if bearable:
                    # Patterns are run on the base model's names alone: a stranger's could be long and many.
                    served = {name: keys.pairs[name] for name in keys.pairs if base is None or name in base.modules}
                    check_numbers(tensors, served, facts, _dtype(limits, base), findings)
    except AdapterUnreadable as error:
        write_down(error, findings)
    return Judgement(_report(findings, facts, keys.pairs, size), facts, keys.renames)


def _signature(folder: Path, limits: Limits, findings: Findings) -> None:
    try:
        check_signature(folder, limits, findings)
    except AdapterUnreadable as error:
        write_down(error, findings)


def _json(folder: Path, name: str, fit: frozenset[str], findings: Findings) -> Mapping[str, Any] | None:
    try:
        return read_json(folder / name) if name in fit else None
    except AdapterUnreadable as error:
        write_down(error, findings)
        return None


def _dtype(limits: Limits, base: BaseModel | None) -> str | None:
    if limits.dtype != "auto":
        return limits.dtype
    return None if base is None else base.dtype


def _report(findings: Findings, facts: LoraFacts, pairs: Pairs, size: int) -> Report:
    trained = tuple(sorted({module.rpartition(".")[2] for module in pairs}))
    infos = [info for pair in pairs.values() for info in pair.values()]
    return Report(
        faults=findings.faults,
        notes=findings.notes,
        rank=facts.highest_rank,
        alpha=facts.alpha,
        target_modules=trained,
        parameters=sum(info.parameters for info in infos),
        size_bytes=size,
    )
