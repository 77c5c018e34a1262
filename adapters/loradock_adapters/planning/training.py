"""The peak of memory of a training run with TRL's SFTTrainer: full, LoRA or QLoRA, on a GPU or in this process.

The peak is the larger of two moments: the turn from forward to backward, where all activations are there, and the
optimiser's step, where all gradients are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from loradock_adapters.planning.activations import in_flight, kept_by_checkpoint, kept_in_full, kept_with_lora
from loradock_adapters.planning.lora_size import LoraSize
from loradock_adapters.planning.shape import ModelShape
from loradock_adapters.planning.terms import Sum, Term
from loradock_adapters.planning.training_dtype import BYTES, TrainingDtype

Method = Literal["full", "lora", "qlora"]
Optimizer = Literal["adamw", "adamw-8bit"]

# bitsandbytes: half a byte a number and a scale for each block of 64; double quantisation makes the scale one byte,
# with a scale of its own for each 256 of them.
_NF4_BLOCK = 64
_NF4_BLOCK_OF_SCALES = 256
# TRL 1.16 computes logits in tiles of at most so many tokens and words and never has them all. On CPU it works on a
# tile with torch's own operations, which have so many bytes a logit under way at the worst moment.
_TILE_TOKENS = 4096
_TILE_WORDS = 32768
_GPU_TILE_BYTES = 2
_CPU_TILE_BYTES: dict[TrainingDtype, int] = {"bfloat16": 39, "float32": 52}
_NAMES: dict[TrainingDtype, str] = {"bfloat16": "bf16", "float32": "fp32"}
_STATE_BYTES = {"adamw": 8, "adamw-8bit": 2}


@dataclass(frozen=True, slots=True)
class Run:
    """What is trained how. `sequence_length` in tokens, `batch_size` examples at once; gradient accumulation changes
    neither. With dropout every adapted module keeps a copy of its input. `dtype`: what is computed in.
    """

    method: Method
    on_gpu: bool
    batch_size: int = 8
    sequence_length: int = 512
    checkpointing: bool = False
    double_quantization: bool = True
    dropout: bool = False
    optimizer: Optimizer = "adamw"
    dtype: TrainingDtype = "bfloat16"

    @property
    def width(self) -> int:
        """Bytes of a number that is computed in."""
        return BYTES[self.dtype]

    @property
    def tokens(self) -> int:
        """In one forward pass."""
        return self.batch_size * self.sequence_length


def weights(shape: ModelShape, run: Run) -> Term:
    """The base model as the run holds it."""
    count, width = shape.parameters, run.width
    match run.method:
        case "full":
            return Term("base weights", 4 * count, f"{count:,} numbers × 4 bytes (fp32)")
        case "lora":
            return Term("base weights", width * count, f"{count:,} numbers × {width} bytes ({_NAMES[run.dtype]})")
        case "qlora":
            linear, other = shape.packed_parameters, shape.other_parameters
            scales = linear // _NF4_BLOCK
            scale_bytes = scales + 4 * scales // _NF4_BLOCK_OF_SCALES if run.double_quantization else 4 * scales
            double = "1 byte each, double-quantised" if run.double_quantization else "4 bytes each"
            return Term(
                "base weights",
                linear // 2 + scale_bytes + width * other,
                f"{linear:,} numbers × ½ byte (NF4) + {scales:,} scales ({double}) + {other:,} others × {width} bytes "
                f"({_NAMES[run.dtype]})",
            )


def training_memory(shape: ModelShape, lora: LoraSize, run: Run) -> Sum:
    """Everything that is in memory at the peak; what the device and the process take besides is not in it."""
    trained = shape.parameters if run.method == "full" else lora.parameters
    state = _STATE_BYTES[run.optimizer]
    held = [weights(shape, run)]
    # Unless the numbers of the file are used as they are.
    if not run.on_gpu and (run.method == "qlora" or (run.method == "lora" and run.dtype == "float32")):
        held.append(Term("model file", 2 * shape.parameters, f"{shape.parameters:,} numbers × 2 bytes, still mapped"))
    if run.method != "full":
        held.append(Term("adapter", 4 * trained, f"{trained:,} numbers × 4 bytes (fp32 while it learns)"))
    held.append(Term("optimizer", state * trained, f"{trained:,} numbers × {state} bytes ({run.optimizer})"))
    gradients = Term("gradients", 4 * trained, f"{trained:,} numbers × 4 bytes (fp32)")
    step = [gradients]
    if run.on_gpu:  # there AdamW goes over all tensors at once
        step.append(Term("optimizer's step", 4 * trained, f"{trained:,} numbers × 4 bytes, while it runs"))
    moments = [*_on_the_way(shape, lora, run), step]
    return max((Sum((*held, *terms)) for terms in moments), key=lambda moment: moment.size_bytes)


def _on_the_way(shape: ModelShape, lora: LoraSize, run: Run) -> list[list[Term]]:
    """Two moments of a pass: the loss, and the first layer that is gone through backwards."""
    tokens = run.tokens
    full = run.method == "full"
    layer = kept_in_full(shape, width=run.width) if full else _kept(shape, lora, run)
    kept = kept_by_checkpoint(shape, width=4 if full else run.width) if run.checkpointing else layer
    activations = Term(
        "activations", tokens * shape.layers * kept, f"{tokens:,} tokens × {shape.layers} layers × {kept:,} bytes"
    )
    rows, words, each = (
        min(tokens, _TILE_TOKENS),
        min(shape.vocab, _TILE_WORDS),
        _GPU_TILE_BYTES if run.on_gpu else _CPU_TILE_BYTES[run.dtype],
    )
    loss = [
        Term("logits", rows * words * each, f"a tile of {rows:,} tokens × {words:,} words × {each} bytes"),
        Term("loss", 4 * tokens * shape.hidden, f"{tokens:,} tokens × {shape.hidden} × 4 bytes (fp32)"),
    ]
    back = [Term("in flight", tokens * in_flight(shape, width=run.width), "gradients of one layer's MLP")]
    if run.checkpointing:
        back.append(Term("layer", tokens * layer, f"{tokens:,} tokens × {layer:,} bytes, computed anew"))
    learned = 4 * (shape.vocab * shape.hidden if full else lora.parameters)
    both = [activations, Term("gradients", learned, "fp32; of a full run the output head's, which come first")]
    if full and run.dtype == "bfloat16":
        both.append(Term("bf16 copies", 2 * shape.parameters, f"{shape.parameters:,} numbers × 2 bytes, autocast's"))
    return [[*both, *loss], [*both, *back]]


def _kept(shape: ModelShape, lora: LoraSize, run: Run) -> int:
    # On CPU PEFT's autocast copies a quantised module's input as it does a plain one's; without autocast nobody copies.
    shared = run.dtype == "float32" or (run.method == "qlora" and run.on_gpu)
    return kept_with_lora(shape, lora.targets, lora.rank, shared=shared, dropout=run.dropout, width=run.width)
