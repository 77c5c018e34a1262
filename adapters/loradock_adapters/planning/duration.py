"""How long a training step takes, roughly: its arithmetic over what a device does of it in practice.

Good to a factor of two, to tell minutes from days. Small models on fast GPUs are not held up by arithmetic but by the
host that starts thousands of small kernels; that is counted too. A processor unpacks NF4 weights in every
pass, which small batches feel.
"""

from __future__ import annotations

from loradock_adapters.planning.device import Device
from loradock_adapters.planning.lora_size import LoraSize
from loradock_adapters.planning.shape import ModelShape
from loradock_adapters.planning.training import Run
from loradock_adapters.planning.training_dtype import TrainingDtype

# Seen on an H100: 300 of 989 TFLOP/s where the arithmetic was the limit.
_GPU_SHARE = 0.30
# Of the speed of bare matrix products, on a processor (`quiet` in loadtest/plan/cpu.json); the rest is all in between,
# which is the larger part where the products are quick.
_CPU_SHARE: dict[TrainingDtype, float] = {"bfloat16": 0.35, "float32": 0.45}
# Seconds that the host needs to start a layer's kernels, forwards and backwards, and more for each adapted module.
_LAYER_SECONDS = 0.0021
_MODULE_SECONDS = 0.0011
_ANEW = 1.74  # with checkpointing the forward pass is made twice


def step_flops(shape: ModelShape, lora: LoraSize, run: Run) -> int:
    """Floating-point operations of one forward and backward pass over the batch; a multiply-add is two."""
    head = shape.vocab * shape.hidden
    frozen = shape.linear_parameters + shape.active_experts + head
    forward = 2 * frozen + 2 * run.sequence_length * shape.attention * shape.layers
    # Backwards: once for the inputs' gradients; once more for those of weights that learn.
    passes = 2 + (1 if run.method == "full" else 0) + (1 if run.checkpointing else 0)
    adapter = 0 if run.method == "full" else 6 * lora.parameters
    return run.tokens * (forward * passes + adapter)


def step_seconds(shape: ModelShape, lora: LoraSize, run: Run, device: Device) -> float | None:
    """Of one forward and backward pass; None where the device's speed is not known."""
    if device.tflops is None:
        return None
    adapted = 0 if run.method == "full" else sum(kind.count for kind in shape.linears if kind.name in lora.targets)
    if not device.is_gpu:
        products = step_flops(shape, lora, run) / (device.tflops * 1e12 * _CPU_SHARE[run.dtype])
        return products + _unpacking(shape, run, device)
    host = (shape.layers * _LAYER_SECONDS + adapted * _MODULE_SECONDS) * (_ANEW if run.checkpointing else 1)
    return max(step_flops(shape, lora, run) / (device.tflops * 1e12 * _GPU_SHARE), host)


def _unpacking(shape: ModelShape, run: Run, device: Device) -> float:
    """Seconds in which a processor unpacks NF4 weights: forwards, backwards, and for what is computed anew."""
    if run.method != "qlora" or device.unpacked_per_second is None:
        return 0.0
    return (3 if run.checkpointing else 2) * shape.packed_parameters / device.unpacked_per_second
