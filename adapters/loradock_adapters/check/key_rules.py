"""What the tensors' names say: which module and side each belongs to, also under names that only need a rename.

A rename is believed only if one rule takes every tensor to a module the base model has: then it is exact.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from loradock_adapters.base_model import BaseModel
from loradock_adapters.check.codes import Code
from loradock_adapters.check.config_facts import LoraFacts
from loradock_adapters.check.findings import Findings
from loradock_adapters.check.foreign import check_foreign, is_embedding
from loradock_adapters.peft_folder import TENSOR_PREFIX, WEIGHTS_FILE, tensor_name
from loradock_adapters.safetensors_header import TensorFile, TensorInfo

_MAX_NAME = 200  # characters; real ones have 90
_MAX_PREFIX = 64
_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})

Pairs = Mapping[str, Mapping[str, TensorInfo]]


@dataclass(frozen=True, slots=True)
class Keys:
    """`pairs`: tensors by module and side ("A", "B"). `renames`: what PEFT would call those with other names.

    `called`: what a renamed module was called in training, as the configuration may still have it.
    """

    pairs: Pairs = field(default_factory=dict)
    renames: Mapping[str, str] = field(default_factory=dict)
    called: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Half:
    info: TensorInfo
    stem: str
    side: str


def read_keys(file: TensorFile, facts: LoraFacts, base: BaseModel | None, findings: Findings) -> Keys:
    """Sort the tensors into pairs, and write down those that are none."""
    halves = []
    for info in file.tensors.values():
        half = _half(info)
        if half is None or is_embedding(half.stem.split(".")):
            check_foreign(info, base, findings)
        else:
            halves.append(half)
    renames = _renames(halves, facts, base)
    if renames:
        old, new = next(iter(renames.items()))
        findings.fault(
            Code.KEY_NAMES, WEIGHTS_FILE, f"{len(renames)} tensors are named like {old}", f"PEFT calls that one {new}"
        )
    pairs: dict[str, dict[str, TensorInfo]] = defaultdict(dict)
    called: dict[str, str] = {}
    for half in halves:
        name = renames.get(half.info.name, half.info.name)
        if name.startswith(TENSOR_PREFIX) and name.endswith(f".lora_{half.side}.weight"):
            module = name[len(TENSOR_PREFIX) : -len(".lora_A.weight")]
            pairs[module][half.side] = half.info
            if half.info.name in renames:
                called[module] = half.stem.removeprefix(TENSOR_PREFIX)
        else:
            check_foreign(half.info, base, findings)
    return Keys(pairs, renames, called)


def _half(info: TensorInfo) -> _Half | None:
    """A name with .lora_A.weight at its end, or with the adapter's own name inside: .lora_A.default.weight."""
    parts = info.name.rsplit(".", 3)
    if len(info.name) > _MAX_NAME or len(parts) < 4 or parts[-1] != "weight":
        return None
    stem, first, second, _ = parts
    if second in ("lora_A", "lora_B"):
        return _Half(info, f"{stem}.{first}", second[-1])
    return _Half(info, stem, first[-1]) if first in ("lora_A", "lora_B") else None


def _renames(halves: list[_Half], facts: LoraFacts, base: BaseModel | None) -> dict[str, str]:
    """Old names to new ones, for those that differ; empty unless one rule fits all tensors."""
    stems = {half.stem for half in halves}
    modules = _modules(stems, base)
    if modules is None or len(set(modules.values())) < len(stems):
        return {}
    if any(facts.scale_of(stem.removeprefix(TENSOR_PREFIX)) != facts.scale_of(new) for stem, new in modules.items()):
        return {}  # a pattern of the configuration means the old name
    named = {half.info.name: tensor_name(modules[half.stem], half.side) for half in halves}
    if len(set(named.values())) < len(named):
        return {}
    return {old: new for old, new in named.items() if old != new}


def _modules(stems: Iterable[str], base: BaseModel | None) -> dict[str, str] | None:
    """The module for each stem: by its plain name, or by another prefix that all of them share."""
    plain = {stem: ".".join(part for part in stem.split(".") if part not in _WRAPPERS) for stem in stems}
    if all(_is_module(name.removeprefix(TENSOR_PREFIX), name, base) for name in plain.values()):
        return {stem: name.removeprefix(TENSOR_PREFIX) for stem, name in plain.items()}
    if base is None:
        return None
    by_tail: dict[str, list[str]] = defaultdict(list)
    for module in base.layers:
        by_tail[_split(module)[1]].append(module)
    found, prefixes = {}, set()
    for stem, name in plain.items():
        prefix, tail = _split(name)
        if len(prefix) > _MAX_PREFIX or not tail or len(by_tail.get(tail, ())) != 1:
            return None
        found[stem] = by_tail[tail][0]
        prefixes.add((prefix, _split(found[stem])[0]))
    return found if len(prefixes) == 1 else None


def _is_module(module: str, name: str, base: BaseModel | None) -> bool:
    return module != name and (base is None or module in base.layers)


def _split(name: str) -> tuple[str, str]:
    """What comes before the first list of layers, and from that list on: ("model", "layers.0.mlp.up_proj")."""
    parts = name.split(".")
    first = next((at for at in range(len(parts) - 1) if parts[at + 1].isdecimal()), len(parts))
    return ".".join(parts[:first]), ".".join(parts[first:])
