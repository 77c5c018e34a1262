"""The server's memory: each term is what its arithmetic says."""

from __future__ import annotations

from loradock_adapters.planning.families import parse_shape
from loradock_adapters.planning.lora_size import lora_size
from loradock_adapters.planning.serving import Service, host_memory, kv_bytes_per_token, serving_memory
from tests.adapters.planning.test_shape import LLAMA_3_8B

LLAMA = parse_shape(LLAMA_3_8B, name="llama")
LORA = lora_size(LLAMA, 16, ["q_proj", "v_proj"])


def test_a_token_of_llama_3_8b_takes_128_kib_of_cache() -> None:
    assert kv_bytes_per_token(LLAMA) == 128 * 1024


def test_in_float32_weights_and_cache_take_twice_as_much_and_16_bit_adapters_do_not() -> None:
    half, single = (
        serving_memory(LLAMA, LORA, Service(on_gpu=False, dtype=dtype)) for dtype in ("bfloat16", "float32")
    )
    for what, times in (("base weights", 2), ("key/value cache", 2), ("adapters in memory", 1)):
        assert single.of(what) == times * half.of(what) > 0


def test_a_gpu_sets_slots_aside_at_the_highest_rank_and_cpu_slots_are_pointers() -> None:
    gpu = serving_memory(LLAMA, LORA, Service(on_gpu=True, slots=8, max_rank=64))
    cpu = serving_memory(LLAMA, LORA, Service(on_gpu=False, slots=8, max_rank=64))
    all_linear = lora_size(LLAMA, 64, ["all-linear"])
    assert gpu.of("slots") == 8 * all_linear.file_bytes
    assert cpu.of("slots") == 0
    assert gpu.of("adapters in memory") == 0
    assert cpu.of("adapters in memory") == 64 * LORA.file_bytes == host_memory(LORA, Service(on_gpu=True)).size_bytes
    assert gpu.of("key/value cache") == 16 * 2048 * 128 * 1024
