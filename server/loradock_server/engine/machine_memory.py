"""How much memory this process and its children may still take: what Linux has left, and what a container allows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")


@dataclass(frozen=True, slots=True)
class MachineMemory:
    """`available_bytes` could be taken now; `bound` says by what: the machine, or a limit of a control group."""

    available_bytes: int
    bound: str

    @classmethod
    def here(cls, root: Path = ROOT) -> MachineMemory | None:
        """The least of what any bound leaves, or None where Linux does not tell."""
        found = [*_machine(root), *_control_groups(root)]
        return min(found, key=lambda one: one.available_bytes) if found else None


def _machine(root: Path) -> Iterator[MachineMemory]:
    with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
        fields = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines() if ":" in line)
        yield MachineMemory(int(fields["MemAvailable"].split()[0]) << 10, "the machine")


def _control_groups(root: Path) -> Iterator[MachineMemory]:
    """Every group that we are in, ours and those around it: each may have a limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            mount, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        inner = mount / path.lstrip("/")
        # Inside a container the path may be the host's, and only the mount's own files are there.
        for folder in [inner, *inner.parents] if inner.is_relative_to(mount) else [mount]:
            yield from _left(folder, *names)
            if folder == mount:
                break


def _left(folder: Path, limit: str, usage: str, reclaimable: str) -> Iterator[MachineMemory]:
    with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit
        most, used = int((folder / limit).read_text()), int((folder / usage).read_text())
        # Cached files count as usage and give way; version 1 writes "no limit" as a number that no machine has.
        for line in (folder / "memory.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == reclaimable:
                used -= int(value)
        if most < 1 << 60:
            yield MachineMemory(max(0, most - used), f"the container's limit of {most / 1e9:.1f} GB")
