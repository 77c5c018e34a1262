"""Which modules a configuration selects, by PEFT's own rules. It knows no tensor and no base model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from loradock_adapters.check.codes import Code, NoteCode
from loradock_adapters.check.findings import Findings, shortened
from loradock_adapters.check.patterns import MAX_TARGET_LENGTH, is_safe
from loradock_adapters.peft_folder import CONFIG_FILE

ALL_LINEAR = "all-linear"
_FIRST_INDEX = re.compile(r".*?\.[^.]*\.(\d+)\.")
_NAME = re.compile(r"[A-Za-z0-9_.]+")


@dataclass(frozen=True, slots=True)
class Targets:
    """`names` is empty where a pattern or all linear layers are targeted. `known` is False where we cannot tell."""

    names: frozenset[str] = frozenset()
    pattern: re.Pattern[str] | None = None
    excluded: frozenset[str] | re.Pattern[str] = frozenset()
    layers: frozenset[int] | None = None
    layer_lists: tuple[str, ...] = ()
    known: bool = False

    @classmethod
    def read(cls, config: Mapping[str, Any], findings: Findings) -> Targets:
        """Judge target_modules and what narrows it down."""
        value, excluded = config.get("target_modules"), config.get("exclude_modules") or ()
        names, pattern, known = frozenset[str](), None, True
        if isinstance(value, list) and value and _strings(value):
            names = frozenset(value)
        elif isinstance(value, str) and value:
            if value != ALL_LINEAR:
                pattern = _compiled(value, "target_modules", findings)
                known = pattern is not None
        elif value in (None, []) and config.get("target_parameters"):
            known = False  # a fault of its own
        else:
            findings.fault(
                Code.CONFIG_VALUE,
                CONFIG_FILE,
                f"target_modules is {shortened(repr(value), 80)}",
                "it must be a list of module names, or a pattern",
            )
            known = False
        if isinstance(excluded, str):
            excluded = _compiled(excluded, "exclude_modules", findings)
        elif not isinstance(excluded, (list, tuple)) or not _strings(excluded):
            excluded = None
        layers, lists = _layers(config), _layer_lists(config)
        if excluded is None or lists is None or (layers is None and config.get("layers_to_transform")):
            return cls(names)
        if not isinstance(excluded, re.Pattern):
            excluded = frozenset(excluded)
        return cls(names, pattern, excluded, layers, lists, known)

    def selects(self, module: str) -> bool:
        """Whether PEFT would put an adapter on a linear module of this name."""
        if isinstance(self.excluded, re.Pattern):
            if self.excluded.fullmatch(module):
                return False
        elif not self.excluded.isdisjoint(endings(module)):
            return False
        if not self.names:
            return self.pattern is None or self.pattern.fullmatch(module) is not None
        if module in self.names:
            return True
        return not self.names.isdisjoint(endings(module)) and self._in_layers(module)

    def _in_layers(self, module: str) -> bool:
        if self.layers is None:
            return True
        found = _FIRST_INDEX.match(module)
        if self.layer_lists:
            tries = (re.match(rf"(?:^|.*?\.){re.escape(name)}\.(\d+)\.", module) for name in self.layer_lists)
            found = next((match for match in tries if match), None)
        return found is not None and int(found[1]) in self.layers


def endings(module: str) -> Iterator[str]:
    """Every name that means this module in a list of targets: its own, and what follows each of its dots."""
    while module:
        yield module
        module = module.partition(".")[2]


def _compiled(pattern: str, field: str, findings: Findings) -> re.Pattern[str] | None:
    if is_safe(pattern, MAX_TARGET_LENGTH):
        return re.compile(pattern)
    findings.note(NoteCode.PATTERN_NOT_RUN, f"{field} is a pattern that was not run: {shortened(pattern, 80)!r}")
    return None


def _layers(config: Mapping[str, Any]) -> frozenset[int] | None:
    value = config.get("layers_to_transform")
    if type(value) is int:
        return frozenset({value})
    whole = isinstance(value, list) and all(type(item) is int for item in value)
    return frozenset(value) if value and whole else None


def _layer_lists(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    value = config.get("layers_pattern") or []
    value = [value] if isinstance(value, str) else value
    plain = isinstance(value, list) and _strings(value) and all(_NAME.fullmatch(item) for item in value)
    return tuple(value) if plain else None


def _strings(values: list[Any] | tuple[Any, ...]) -> bool:
    return all(isinstance(item, str) and item for item in values)
