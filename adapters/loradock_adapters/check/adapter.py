"""The check itself: one pass over a folder that collects every fault, then a report.

It decides nothing about who may register what; it knows the files, the base model's shapes and the limits.
"""

from __future__ import annotations

from pathlib import Path

from loradock_adapters.base_model import BaseModel
from loradock_adapters.check.config_rules import LoraFacts, check_config
from loradock_adapters.check.findings import Findings, shortened
from loradock_adapters.check.limits import Limits
from loradock_adapters.check.tensor_rules import Pairs, check_numbers, check_tensors
from loradock_adapters.errors import AdapterUnreadable
from loradock_adapters.faults import Report
from loradock_adapters.peft_folder import (
    CONFIG_FILE,
    MANIFEST_FILE,
    REQUIRED_FILES,
    WEIGHTS_FILE,
    list_adapter_files,
    read_json,
    size_of,
)
from loradock_adapters.safetensors_header import TensorFile

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


def check_adapter(folder: Path, base: BaseModel | None, limits: Limits | None = None) -> Report:
    """Judge an adapter folder. Never raises for what the folder holds: that is in the report.

    Without a base model, names and shapes are checked against each other only, and a warning says so. Reads
    all tensors, one at a time; blocking, some seconds per gigabyte.
    """
    limits = limits or Limits()
    findings = Findings()
    try:
        files, ignored = list_adapter_files(folder)
        size = size_of(folder, files)
    except AdapterUnreadable as error:
        _unreadable(error, findings)
        return _report(findings, LoraFacts(), {}, 0)
    # 1. The files
    _check_files(files, ignored, findings)
    too_large = size > limits.max_bytes
    if too_large:
        findings.fault(
            "too_large",
            str(folder.name),
            f"{size} bytes",
            f"this server allows {limits.max_bytes}",
            "raise LORADOCK_MAX_ADAPTER_BYTES, or train with a lower rank or fewer modules",
        )
    # 2. The configuration
    facts = _config(folder, files, limits, findings)
    if base is None:
        findings.warn("no base model given: names and shapes were not compared with one")
    elif _other_base(facts.base_name, base):
        findings.warn(f"the adapter names the base model {shortened(facts.base_name)!r}, this is {base.name!r}")
    # 3. The tensors
    pairs: Pairs = {}
    if WEIGHTS_FILE in files:
        try:
            tensors = TensorFile.open(folder / WEIGHTS_FILE)
            pairs = check_tensors(tensors, facts, base, findings)
            if not too_large:
                check_numbers(tensors, pairs, findings)
        except AdapterUnreadable as error:
            _unreadable(error, findings)
    return _report(findings, facts, pairs, size)


def _check_files(files: tuple[str, ...], ignored: tuple[str, ...], findings: Findings) -> None:
    for name in REQUIRED_FILES:
        if name not in files:
            pickled = [other for other in ignored if other.endswith(_PICKLES) and name == WEIGHTS_FILE]
            findings.fault(
                "pickle" if pickled else "missing_file",
                name,
                f"there is only {pickled[0]}" if pickled else "the file is missing",
                "weights are read from safetensors only, pickles can run code" if pickled else "it is required",
                "save the adapter with PEFT's save_pretrained",
            )
    if ignored:
        shown = ", ".join(shortened(name, 60) for name in ignored[:10]) + (", …" if len(ignored) > 10 else "")
        findings.warn(f"files that are not part of an adapter are left out: {shown}")


def _config(folder: Path, files: tuple[str, ...], limits: Limits, findings: Findings) -> LoraFacts:
    facts = LoraFacts()
    try:
        if CONFIG_FILE in files:
            facts = check_config(read_json(folder / CONFIG_FILE), limits, findings)
    except AdapterUnreadable as error:
        _unreadable(error, findings)
    try:
        if MANIFEST_FILE in files:
            read_json(folder / MANIFEST_FILE)
    except AdapterUnreadable as error:
        _unreadable(error, findings)
    return facts


def _other_base(named: str, base: BaseModel) -> bool:
    # Hubs, mirrors and local copies differ in everything but the last part of the name.
    return bool(named) and named.rstrip("/").rpartition("/")[2].casefold() != base.name.rpartition("/")[2].casefold()


def _unreadable(error: AdapterUnreadable, findings: Findings) -> None:
    findings.fault(
        "unreadable",
        error.where,
        str(error).removeprefix(f"{error.where}: "),
        "the file must be sound",
        "save the adapter with PEFT's save_pretrained, and copy it again",
    )


def _report(findings: Findings, facts: LoraFacts, pairs: Pairs, size: int) -> Report:
    trained = tuple(sorted({module.rpartition(".")[2] for module in pairs}))
    infos = [info for pair in pairs.values() for info in pair.values()]
    return Report(
        faults=findings.faults,
        warnings=findings.warnings,
        rank=facts.highest_rank,
        alpha=facts.alpha,
        target_modules=trained,
        parameters=sum(info.parameters for info in infos),
        size_bytes=size,
    )
