"""The vLLM plugin (entry point `vllm.general_plugins`): orderly removal of adapters, our LoRA arithmetic on CPU, and no
process of an engine without its parent.

vLLM calls `register` in each of its processes, sometimes twice. On a GPU the arithmetic stays vLLM's: its Triton
kernels are right there.
"""

from __future__ import annotations


def register() -> None:
    """Idempotent; imports nothing heavy before vLLM itself is there."""
    from . import orphans, vllm_compat

    orphans.end_with_parent()
    vllm_compat.end_requests_of_removed_adapters()
    if vllm_compat.on_cpu():
        vllm_compat.use_segmented_kernels()
