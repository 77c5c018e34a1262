"""What is recommended: the quickest way to train that fits, never one that does not."""

from __future__ import annotations

import pytest

from loradock_adapters.errors import BaseModelError
from loradock_adapters.planning.choice import choose, least
from loradock_adapters.planning.device import CPU, GIB, GPU, GPUS, find_device
from loradock_adapters.planning.families import parse_shape
from loradock_adapters.planning.lora_size import lora_size
from loradock_adapters.planning.training import Run
from tests.adapters.planning.test_shape import LLAMA_3_8B

LLAMA = parse_shape(LLAMA_3_8B, name="llama")
LORA = lora_size(LLAMA, 16, ["all-linear"])
WANTED = Run("lora", on_gpu=True, batch_size=8, sequence_length=1024)


@pytest.mark.parametrize("gib", [9, 12, 16, 24, 48, 80])
def test_what_is_recommended_fits_and_keeps_the_batch(gib: int) -> None:
    found = choose(LLAMA, LORA, WANTED, GPU, gib * GIB)
    assert found is not None
    assert found.needs_bytes <= gib * GIB
    assert found.run.batch_size * found.accumulation == WANTED.batch_size


def test_more_memory_never_makes_it_slower() -> None:
    device = GPUS["h100"]
    times = [choose(LLAMA, LORA, WANTED, device, gib * GIB) for gib in (9, 12, 16, 24, 32, 48, 80, 141)]
    seconds = [found.seconds_a_step for found in times if found is not None and found.seconds_a_step is not None]
    assert len(seconds) == len(times)
    assert seconds == sorted(seconds, reverse=True)


def test_little_memory_takes_qlora_and_much_takes_lora() -> None:
    small, large = choose(LLAMA, LORA, WANTED, GPU, 12 * GIB), choose(LLAMA, LORA, WANTED, GPU, 141 * GIB)
    assert small is not None
    assert small.run.method == "qlora"
    assert large is not None
    assert (large.run.method, large.run.checkpointing, large.accumulation) == ("lora", False, 1)


def test_where_nothing_fits_nothing_is_recommended_and_the_least_is_known() -> None:
    assert choose(LLAMA, LORA, WANTED, GPU, 4 * GIB) is None
    smallest = least(LLAMA, LORA, WANTED, GPU)
    assert smallest.run.batch_size == 1
    assert choose(LLAMA, LORA, WANTED, GPU, smallest.needs_bytes) == smallest


def test_a_device_is_known_by_its_name_and_an_unknown_one_hears_the_nearest() -> None:
    assert find_device("A100_80GB") is GPUS["a100-80gb"]
    assert find_device("cpu") is CPU
    with pytest.raises(BaseModelError, match="did you mean rtx-4090"):
        find_device("rtx4090ti")
