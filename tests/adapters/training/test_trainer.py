"""The gradient through a 4-bit base: the same before and after an evaluation, and that of the weights it stands for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from loradock_adapters.training.trainer import keep_gradients_exact

BOTH = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])


def gradient_at_the_input(model: torch.nn.Module, embedded: torch.Tensor) -> torch.Tensor:
    """d(sum of logits²)/d(input embeddings): it passes backwards through every layer."""
    given = embedded.clone().requires_grad_()
    model(inputs_embeds=given).logits.float().square().mean().backward()
    assert given.grad is not None
    return given.grad.float()


def load(base: Path, dtype: torch.dtype) -> torch.nn.Module:
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, quantization_config=nf4)
    keep_gradients_exact(model)
    return model


@BOTH
def test_an_evaluation_in_between_does_not_change_the_gradient(tiny_base: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    embedded = torch.randn(2, 8, 64, dtype=dtype)
    model = load(tiny_base, dtype)
    before = gradient_at_the_input(model.train(), embedded)

    with torch.no_grad():
        model.eval()(inputs_embeds=embedded)
    after = gradient_at_the_input(model.train(), embedded)

    assert bool(before.any())
    assert torch.equal(after, before)


@BOTH
def test_the_gradient_is_that_of_the_dequantised_weights(tiny_base: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    embedded = torch.randn(2, 8, 64, dtype=dtype)
    quantised = load(tiny_base, dtype)
    plain = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=dtype)
    for name, module in quantised.named_modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None:
            plain.get_submodule(name).weight.data = dequantize_4bit(module.weight.data, state).to(dtype)

    found = gradient_at_the_input(quantised.train(), embedded)
    expected = gradient_at_the_input(plain.train(), embedded)

    relative, absolute = (0.05, 0.02) if dtype == torch.bfloat16 else (1e-4, 1e-5)
    torch.testing.assert_close(found, expected, rtol=relative, atol=float(expected.abs().max()) * absolute)
