"""Tensors that are no LoRA pair: what their names give away about how the adapter was trained."""

from __future__ import annotations

from collections.abc import Mapping

from loradock_adapters.base_model import BaseModel
from loradock_adapters.check.codes import Code
from loradock_adapters.check.findings import Findings
from loradock_adapters.peft_folder import TENSOR_PREFIX, WEIGHTS_FILE
from loradock_adapters.safetensors_header import TensorInfo

EMBEDDINGS = ("embed_tokens", "lm_head", "wte", "wpe", "embed_in", "embed_out", "word_embeddings")

_VARIANT_MARKS: Mapping[str, tuple[Code, str]] = {
    "lora_magnitude_vector": (Code.DORA, "a magnitude vector of DoRA"),
    "trainable_tokens_delta": (Code.TRAINABLE_TOKENS, "rows of the embeddings"),
    "trainable_tokens_original": (Code.TRAINABLE_TOKENS, "rows of the embeddings"),
    "lora_diag": (Code.VARIANT, "singular values of KaSA"),
    "lora_monteclora_sampler": (Code.VARIANT, "a sampler of MonteCLoRA"),
    "lora_velora_embed": (Code.VARIANT, "projections of VeLoRA"),
}


def is_embedding(parts: list[str]) -> bool:
    """Whether a dotted name leads to the embeddings or the head."""
    return any(part in EMBEDDINGS or part.startswith("lora_embedding_") for part in parts)


def check_foreign(info: TensorInfo, base: BaseModel | None, findings: Findings) -> None:
    """Say what a tensor is that is no pair's half, or a half of an embedding's pair."""
    where = f"{WEIGHTS_FILE}: {info.name}"
    parts = info.name.split(".")
    for mark, (code, what) in _VARIANT_MARKS.items():
        if mark in parts:
            findings.fault(code, where, what, "the engine has no use for it")
            return
    if is_embedding(parts):
        _check_embedding(info, parts, base, where, findings)
    elif info.name.endswith((".lora_A.bias", ".lora_B.bias")):
        findings.fault(Code.LORA_BIAS, where, "a bias of a LoRA matrix", "the engine has no use for it")
    elif parts[-1] == "bias" and info.name.startswith(TENSOR_PREFIX):
        findings.fault(Code.BIAS, where, "a trained bias", "the engine has no use for it")
    elif (
        parts[-1] == "weight"
        and info.name.startswith(TENSOR_PREFIX)
        and "lora_A" not in parts
        and "lora_B" not in parts
    ):
        findings.fault(Code.MODULES_TO_SAVE, where, "a whole module's weight", "the engine has no use for it")
    else:
        findings.fault(
            Code.UNKNOWN_TENSOR,
            where,
            "no LoRA weight by its name",
            f"names are {TENSOR_PREFIX}<module>.lora_A.weight and .lora_B.weight",
        )


def _check_embedding(
    info: TensorInfo, parts: list[str], base: BaseModel | None, where: str, findings: Findings
) -> None:
    # A copy of the table, or the half of a pair that has a column or row for each token.
    tokens = None
    if parts[-1] == "weight" and parts[-2] != "lora_A" and len(info.shape) == 2:
        tokens = info.shape[0]
    elif parts[-1] == "lora_embedding_A" and len(info.shape) == 2:
        tokens = info.shape[1]
    if base is not None and tokens is not None and tokens != base.vocab_size:
        findings.fault(Code.RESIZED_VOCABULARY, where, f"{tokens} tokens", f"{base.name} has {base.vocab_size}")
    else:
        findings.fault(
            Code.EMBEDDING,
            where,
            "a tensor of the embeddings or the output head",
            "the engine serves adapters of linear layers only",
        )
