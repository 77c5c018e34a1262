"""One adapter of the corpus: how it is made, and the verdict it must get. Makes nothing itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loradock_adapters.check import Limits
from tests.adapters.corpus.world import LIMITS, Tensors, World, adapted, change_config, change_tensors, saved

Build = Callable[[World, Path], None]


@dataclass(frozen=True)
class Case:
    """`faults` and `notes` are the exact sets of codes; no faults means that the adapter must act as in PEFT."""

    name: str
    build: Build
    faults: frozenset[str]
    notes: frozenset[str]
    limits: Limits

    def __str__(self) -> str:
        return self.name


def good(name: str, build: Build, *notes: str, limits: Limits = LIMITS) -> Case:
    return Case(name, build, frozenset(), frozenset(notes), limits)


def bad(name: str, build: Build, *faults: str, notes: tuple[str, ...] = (), limits: Limits = LIMITS) -> Case:
    return Case(name, build, frozenset(faults), frozenset(notes), limits)


def lora(*, how: dict[str, Any] | None = None, **config: Any) -> Build:
    """A LoRA adapter as PEFT trains and saves it; `how` goes to the saving."""

    def build(world: World, folder: Path) -> None:
        saved(adapted(world, **config), folder, **(how or {}))

    return build


def with_fields(build: Build = lora(), /, **fields: Any) -> Build:  # noqa: B008  # builders have no state
    """The same with other values in its configuration."""

    def changed(world: World, folder: Path) -> None:
        build(world, folder)
        change_config(folder, **fields)

    return changed


def with_tensors(change: Callable[[Tensors], Tensors], build: Build = lora()) -> Build:  # noqa: B008  # as above
    """The same with other tensors."""

    def changed(world: World, folder: Path) -> None:
        build(world, folder)
        change_tensors(folder, change)

    return changed


def with_files(files: dict[str, str | bytes], build: Build = lora()) -> Build:  # noqa: B008  # as above
    """The same with files added or overwritten."""

    def changed(world: World, folder: Path) -> None:
        build(world, folder)
        for name, content in files.items():
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return changed
