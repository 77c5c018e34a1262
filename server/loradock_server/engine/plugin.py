"""The vLLM plugin (entry point `vllm.general_plugins`): orderly removal of adapters, our LoRA arithmetic on CPU, and no
process of an engine without its parent; a stand-in for torchvision where that is missing.

vLLM calls `register` in each of its processes, sometimes twice. On a GPU the arithmetic stays vLLM's: its Triton
kernels are right there.
"""

from __future__ import annotations


def register() -> None:
    """Idempotent; imports nothing heavy before vLLM itself is there."""
    from . import no_torchvision, orphans, vllm_compat

    orphans.end_with_parent()
    no_torchvision.stand_in()
    vllm_compat.end_requests_of_removed_adapters()
    vllm_compat.adapt_linear_layers_only()
    if vllm_compat.on_cpu():
        vllm_compat.use_segmented_kernels()
