"""Who chooses the way LoRA is computed, for processors that this machine has and for those that it has not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

from loradock_adapters.processor import Processor  # noqa: E402
from loradock_server.engine.kernels.choice import (  # noqa: E402
    VARIABLE,
    Choice,
    KernelUnfit,
    Wanted,
    choose,
    wanted_way,
)
from loradock_server.engine.kernels.slots import LayerSlots  # noqa: E402
from loradock_server.engine.launch import KERNEL_VARIABLE  # noqa: E402
from loradock_server.settings import Settings  # noqa: E402

AVX2 = frozenset({"avx2", "fma", "f16c"})
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
PROCESSORS = {
    "none": Processor("Old", frozenset({"sse4_2", "avx"})),
    "avx2": Processor("Zen 1", AVX2),
    "avx512": Processor("Skylake", AVX512),
    "avx512-bf16": Processor("Zen 4", AVX512 | {"avx512_bf16"}),
}
FITTING = [LayerSlots(1, 576, [576, 192, 192])]


def chosen(level: str, dtype: str, wanted: Wanted = "auto", layers: list[LayerSlots] = FITTING) -> Choice:
    return choose(layers, getattr(torch, dtype), PROCESSORS[level], wanted)


@pytest.mark.parametrize(
    ("level", "dtype", "way"),
    [
        ("none", "float32", "gemm"),
        ("none", "bfloat16", "gemm"),
        ("avx2", "float32", "wide"),
        ("avx2", "bfloat16", "wide"),
        ("avx2", "float16", "wide"),
        ("avx512", "float32", "wide"),
        ("avx512", "bfloat16", "wide"),
        ("avx512-bf16", "float32", "wide"),
        ("avx512-bf16", "float16", "wide"),
        ("avx512-bf16", "bfloat16", "paired"),
        ("avx512-bf16", "float64", "gemm"),
    ],
)
def test_the_fastest_way_that_a_processor_has_is_taken_and_named(level: str, dtype: str, way: str) -> None:
    choice = chosen(level, dtype)
    assert choice.way == way
    assert choice.reason.startswith(f"{way}: ")
    assert PROCESSORS[level].name in choice.reason


@pytest.mark.parametrize("missing", sorted(AVX512 | {"avx512_bf16"}))
def test_no_single_instruction_set_may_be_missing(missing: str) -> None:
    less = Processor("Less", PROCESSORS["avx512-bf16"].features - {missing})
    assert choose(FITTING, torch.bfloat16, less).way == ("gemm" if missing in AVX2 else "wide")


@pytest.mark.parametrize("layer", [LayerSlots(1, 7, [16]), LayerSlots(1, 8, [16, 24])], ids=["odd", "24 wide"])
def test_layers_that_do_not_divide_go_the_way_that_takes_any(layer: LayerSlots) -> None:
    choice = chosen("avx512-bf16", "bfloat16", layers=[*FITTING, layer])
    assert choice.way == "wide"
    assert "by sixteens" in choice.reason


@pytest.mark.parametrize(
    ("level", "dtype", "wanted", "problem"),
    [
        ("avx2", "bfloat16", "paired", "AVX512-BF16"),
        ("avx512-bf16", "float32", "paired", "bfloat16 only"),
        ("none", "float32", "wide", "AVX2 with FMA"),
        ("avx2", "float64", "wide", "float64"),
    ],
)
def test_a_way_that_is_wanted_and_cannot_be_had_is_an_error(
    level: str, dtype: str, wanted: Wanted, problem: str
) -> None:
    with pytest.raises(KernelUnfit, match=f"{VARIABLE}={wanted} cannot be had: .*{problem}"):
        chosen(level, dtype, wanted)


@pytest.mark.parametrize("wanted", ["paired", "wide", "gemm"])
def test_a_way_that_is_wanted_is_taken(wanted: Wanted) -> None:
    assert chosen("avx512-bf16", "bfloat16", wanted).way == wanted


def test_the_setting_reaches_the_worker_by_the_name_that_it_looks_for() -> None:
    assert (
        VARIABLE == KERNEL_VARIABLE == "LORADOCK_" + next(n for n in Settings.model_fields if n == "cpu_kernel").upper()
    )
    assert wanted_way({}) == "auto"
    assert wanted_way({VARIABLE: "gemm"}) == "gemm"
    with pytest.raises(KernelUnfit, match="known: auto, paired, wide, gemm"):
        wanted_way({VARIABLE: "fast"})


def run_python(code: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_choosing_imports_nothing_that_is_compiled() -> None:
    code = (
        "import sys\n"
        "from loradock_server.engine.kernels import choice, gemm, operator, segments, slots, compiled\n"
        "print([name for name in ('numba', 'llvmlite') if name in sys.modules])"
    )
    assert run_python(code).strip() == "[]"


COMPILE = """
from llvmlite import binding
from loradock_server.engine.kernels import {module}
{code}
print("compiled")
"""
FEATURES_AVX2 = "+avx,+avx2,+fma,+f16c,-avx512f"
FEATURES_AVX512 = f"{FEATURES_AVX2[:-9]},+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl"


@pytest.mark.parametrize(
    ("cpu", "features", "module", "code"),
    [
        ("znver1", FEATURES_AVX2, "wide", "wide.make_add_segments('float32', long_vectors=False)"),
        ("haswell", FEATURES_AVX2, "wide", "wide.make_add_segments('bfloat16', long_vectors=False)"),
        ("skylake-avx512", FEATURES_AVX512, "wide", "wide.make_add_segments('float32', long_vectors=True)"),
        ("znver4", f"{FEATURES_AVX512},+avx512bf16", "wide", "wide.make_add_segments('float32', long_vectors=True)"),
        ("znver4", f"{FEATURES_AVX512},+avx512bf16", "paired", "paired.add_segments"),
        ("sapphirerapids", f"{FEATURES_AVX512},+avx512bf16", "paired", "paired.add_segments"),
    ],
)
def test_each_way_compiles_for_the_processors_that_take_it(cpu: str, features: str, module: str, code: str) -> None:
    """Only compiled: this machine may not be able to run it."""
    source = COMPILE.format(module=module, code=code)
    assert "compiled" in run_python(source, NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES=features)
