"""H8: lm_head wrapped for LoRA. On CPU prompt_logprobs then ends vLLM; here lm_head is left alone."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.slow

Seen = dict[str, Any]


def test_plain_vllm_dies_of_logits_for_more_rows_than_are_sampled(plain: Seen) -> None:
    assert "lm_head" in plain["h8"]["wrapped"]
    assert plain["h8"]["logits"].startswith("RuntimeError: einsum()")


def test_our_flags_leave_lm_head_and_embeddings_alone_and_the_logits_come(ours: Seen) -> None:
    assert ours["h8"]["wrapped"] == ["down_proj", "gate_up_proj", "o_proj", "qkv_proj"]
    assert ours["h8"]["logits"] == [5, 128]
