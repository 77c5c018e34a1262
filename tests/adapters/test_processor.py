"""What a processor has, as Linux tells it."""

from __future__ import annotations

from pathlib import Path

import pytest

from loradock_adapters.processor import Processor

AVX2 = "fpu sse sse2 avx avx2 fma f16c bmi1 bmi2"
AVX512 = f"{AVX2} avx512f avx512bw avx512cd avx512dq avx512vl"


def told(tmp_path: Path, *cores: str) -> Processor:
    path = tmp_path / "cpuinfo"
    path.write_text(
        "\n".join(f"processor\t: {i}\nmodel name\t: A Chip\nflags\t\t: {core}\n" for i, core in enumerate(cores))
    )
    return Processor.here(path)


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        ("fpu sse sse2", "none"),
        ("fpu sse sse2 avx avx2", "none"),  # avx2 without fma: nothing is compiled for that
        (AVX2, "avx2"),
        (f"{AVX2} avx512f", "avx2"),
        (AVX512, "avx512"),
        (f"{AVX512} avx512_bf16", "avx512-bf16"),
        (f"{AVX2} avx512_bf16", "avx2"),
    ],
)
def test_a_level_is_reached_with_all_that_it_needs(tmp_path: Path, flags: str, level: str) -> None:
    found = told(tmp_path, flags, flags)
    assert found.level == level
    assert found.multiplies_bf16 == (level == "avx512-bf16")
    assert found.description == f"A Chip ({level})"


def test_what_only_some_cores_have_does_not_count(tmp_path: Path) -> None:
    assert told(tmp_path, f"{AVX512} avx512_bf16", AVX2).level == "avx2"


def test_without_proc_there_is_nothing_to_rely_on(tmp_path: Path) -> None:
    found = Processor.here(tmp_path / "missing")
    assert found.level == "none"
    assert found.name
