"""What a process may have of a machine's memory, read from trees like Linux's."""

from __future__ import annotations

from pathlib import Path

import pytest

from loradock_adapters.machine_memory import memory_limit_bytes

GIB = 1 << 30


def machine(root: Path, files: dict[str, str]) -> int | None:
    for name, text in {"proc/meminfo": f"MemTotal:       {8 * GIB // 1024} kB\nMemFree: 1 kB\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return memory_limit_bytes(root)


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, 8 * GIB),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max\n"}, 8 * GIB),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": f"{2 * GIB}\n"}, 2 * GIB),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": f"{3 * GIB}\n"}, 3 * GIB),
        # in a container the group's path is the host's, and its limit lies at the top
        ({"proc/self/cgroup": "0::/../pods/x\n", "sys/fs/cgroup/memory.max": f"{GIB}\n"}, GIB),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": f"{100 * GIB}\n"}, 8 * GIB),
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/x\n0::/x\n",
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": f"{GIB}\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            GIB,
        ),
        ({"proc/self/cgroup": "nonsense\n::\n"}, 8 * GIB),
    ],
)
def test_the_least_limit_counts(tmp_path: Path, files: dict[str, str], limit: int) -> None:
    assert machine(tmp_path, files) == limit


def test_where_nothing_says_there_is_no_limit(tmp_path: Path) -> None:
    assert memory_limit_bytes(tmp_path) is None


def test_this_machine_has_some() -> None:
    assert (memory_limit_bytes() or 0) > 1 << 28
