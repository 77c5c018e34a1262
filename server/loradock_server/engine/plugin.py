"""The vLLM plugin (entry point `vllm.general_plugins`): puts our LoRA arithmetic in place of vLLM's, on CPU only.

vLLM calls `register` in each of its processes, sometimes twice. On a GPU it does nothing: vLLM's Triton kernels are
right there.
"""

from __future__ import annotations


def register() -> None:
    """Idempotent; imports nothing heavy before vLLM itself is there."""
    from . import vllm_compat

    if vllm_compat.on_cpu():
        vllm_compat.use_segmented_kernels()
