"""One repair after the other, in a folder beside the target that takes its name when all is written.

It decides which repairs apply; how each is done, the modules beside it know. The original is never touched, and the
result is judged like any adapter: a repair that leaves other faults says so.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loradock_adapters.base_model import BaseModel
from loradock_adapters.check import Code, Limits
from loradock_adapters.check.adapter import Judgement, judge
from loradock_adapters.errors import AdapterUnreadable, RepairRefused
from loradock_adapters.faults import Report
from loradock_adapters.files import open_regular
from loradock_adapters.peft_folder import (
    CONFIG_FILE,
    JUDGED_FILES,
    MANIFEST_FILE,
    PICKLED_WEIGHTS,
    REQUIRED_FILES,
    SIGNATURE_FILE,
    TENSOR_PREFIX,
    WEIGHTS_FILE,
    list_adapter_files,
    read_json,
    size_of,
)
from loradock_adapters.repair.rename import rename_tensors
from loradock_adapters.repair.unpickle import convert_pickle
from loradock_adapters.repair.unshift import find_initial, is_convertible, subtract_initial
from loradock_adapters.safetensors_header import TensorFile


@dataclass(frozen=True, slots=True)
class Repair:
    """`did`: a sentence for each repair; if there is none, nothing was written. `report`: on what was written."""

    did: tuple[str, ...]
    report: Report


def repair(
    folder: Path, out: Path, base: BaseModel | None, limits: Limits | None = None, *, initial: Path | None = None
) -> Repair:
    """Write the adapter in `folder` to the new folder `out`, with every exact repair that applies.

    `initial` holds the adapter as it was before training (PiSSA, OLoRA, CorDA); without it, a folder inside whose name
    says init. Raises RepairRefused, AdapterUnreadable, or OSError where `out` cannot be written.
    """
    limits = limits or Limits()
    if out.exists():
        raise RepairRefused(f"{out} exists; a repair is written to a new folder: name another one with --fix")
    with _beside(out) as made:
        _copy(folder, made, limits)
        did = []
        if text := _unpickle(folder, made, limits):
            did.append(text)
        found = judge(made, base, limits)
        if text := _rename(made, found):
            did.append(text)
        if text := _unshift(made, initial or find_initial(folder), found, base, limits):
            did.append(text)
        if not did:
            return Repair((), judge(folder, base, limits).report)
        _note_in_manifest(made, did)
        report = judge(made, base, limits).report
        made.rename(out)
    return Repair(tuple(did), report)


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    out.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        made.chmod(0o777 & ~_umask())
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _copy(folder: Path, made: Path, limits: Limits) -> None:
    files, ignored = list_adapter_files(folder)
    # Not the signature: it is over the bytes as they were.
    files += tuple(name for name in ignored if name in JUDGED_FILES - {SIGNATURE_FILE})
    if (size := size_of(folder, files)) > limits.max_bytes:
        raise RepairRefused(f"{folder} holds {size} bytes; at most {limits.max_bytes} are copied (--max-bytes)")
    for name in files:
        try:
            with open_regular(folder / name) as source, (made / name).open("xb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        except OSError as error:
            raise AdapterUnreadable(error.strerror or str(error), where=name) from error


def _unpickle(folder: Path, made: Path, limits: Limits) -> str | None:
    found = next((name for name in PICKLED_WEIGHTS if (folder / name).is_file()), None)
    if found is None or (made / WEIGHTS_FILE).exists():
        return None
    with _packages("torch and safetensors"):
        count = convert_pickle(folder / found, made / WEIGHTS_FILE, max_bytes=limits.max_bytes)
    return f"{found} was read with weights_only: its {count} tensors are in {WEIGHTS_FILE} now"


def _unshift(made: Path, initial: Path | None, found: Judgement, base: BaseModel | None, limits: Limits) -> str | None:
    if initial is None or any(not (one / name).is_file() for one in (made, initial) for name in REQUIRED_FILES):
        return None
    # Only pairs survive the subtraction, so nothing else may be among the tensors.
    if {fault.code for fault in found.report.faults} - {Code.UNCONVERTED_INIT, Code.KEY_NAMES}:
        return None
    config = read_json(made / CONFIG_FILE)
    if not is_convertible(config):
        return None
    if (size := size_of(initial, REQUIRED_FILES)) > limits.max_bytes:
        raise RepairRefused(f"{initial} holds {size} bytes; at most {limits.max_bytes} are read (--max-bytes)")
    with _packages("torch, peft and safetensors"), _beside(made) as plain:
        before = plain / "initial"
        before.mkdir()
        shutil.copyfile(initial / CONFIG_FILE, before / CONFIG_FILE)
        rename_tensors(TensorFile.open(initial / WEIGHTS_FILE), found.renames, before / WEIGHTS_FILE)
        subtract_initial(made, before, plain)
        for name in REQUIRED_FILES:
            (plain / name).replace(made / name)
    return (
        f"{config['init_lora_weights']} became plain LoRA of rank {2 * config['r']}: "
        f"the initial weights in {initial.name} were subtracted, by PEFT's method"
    )


def _rename(made: Path, found: Judgement) -> str | None:
    if not found.renames:
        return None
    rename_tensors(TensorFile.open(made / WEIGHTS_FILE), found.renames, made / "renamed")
    (made / "renamed").replace(made / WEIGHTS_FILE)
    modules = {name[len(TENSOR_PREFIX) : -len(".lora_A.weight")] for name in found.renames.values()}
    text = ""
    if not found.facts.targets.known or not all(map(found.facts.targets.selects, modules)):
        # What selected the old names does not select the new ones: name them all.
        narrowing = {"exclude_modules": None, "layers_to_transform": None, "layers_pattern": None}
        config = {**read_json(made / CONFIG_FILE), "target_modules": sorted(modules), **narrowing}
        _write_json(made / CONFIG_FILE, config)
        text = ", and target_modules lists the modules"
    old, new = next(iter(found.renames.items()))
    return f"{len(found.renames)} tensors were renamed, such as {old} to {new}{text}; no number was changed"


def _note_in_manifest(made: Path, did: list[str]) -> None:
    if (made / MANIFEST_FILE).exists():
        # What it says of the adapter's bytes is no longer true of these.
        manifest = {key: value for key, value in read_json(made / MANIFEST_FILE).items() if key != "adapter"}
        _write_json(made / MANIFEST_FILE, {**manifest, "repaired": did})


@contextmanager
def _packages(names: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise RepairRefused(f"this repair needs {names}: pip install 'loradock[train]' ({error})") from error


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _umask() -> int:
    current = os.umask(0o077)
    os.umask(current)
    return current
