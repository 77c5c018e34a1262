"""How much memory this process may have: the machine's, or less where a control group (a container) says so.

Totals, not what is free at the moment: what is decided by them must be decided alike after every restart.
"""

from __future__ import annotations

from pathlib import Path

_NO_LIMIT = 1 << 60  # version 1 says "none" by a number near 2^63


def memory_limit_bytes(root: Path = Path("/")) -> int | None:
    """The least of the machine's memory and of the limits of this process's control groups; None where nothing says."""
    found = [_total(root / "proc/meminfo"), *_group_limits(root)]
    return min((limit for limit in found if limit is not None and limit < _NO_LIMIT), default=None)


def _total(meminfo: Path) -> int | None:
    for line in _lines(meminfo):
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return None


def _group_limits(root: Path) -> list[int | None]:
    """Of every group from this process's own up to the root, which all hold; both versions of control groups."""
    limits = []
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        if number == "0":
            top, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        # In a container the path may be the host's, of which only the top is to be seen here.
        for depth in range(len(parts), -1, -1):
            limits.append(_number(top.joinpath(*parts[:depth], name)))
    return limits


def _number(path: Path) -> int | None:
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
