"""What a layer keeps of the tokens before, by the config: keys and values or a latent, of all tokens or of a window."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from loradock_adapters.planning.shape import CacheKind


def caches_of(config: Mapping[str, Any], keys: Sequence[int]) -> tuple[CacheKind, ...]:
    """`keys`: how wide the keys of each layer are, in order. Layers that use another's keep nothing."""
    own = keys[: len(keys) - (config.get("num_kv_shared_layers") or 0)]
    # With latent attention the latent and the rotated part of the key, once.
    latent = config.get("kv_lora_rank")
    window = config.get("sliding_window")
    if type(window) is not int or config.get("use_sliding_window") is False:
        window = None
    kinds = config.get("layer_types") or ["sliding_attention"] * len(own)
    counts = Counter(
        (
            latent + (config.get("qk_rope_head_dim") or 0) if latent else 2 * wide,
            window if "sliding" in str(kind) else None,
        )
        for wide, kind in zip(own, kinds, strict=False)
    )
    return tuple(CacheKind(count, numbers, kept) for (numbers, kept), count in counts.items())
