"""What a server allows of an adapter."""

from __future__ import annotations

from dataclasses import dataclass

from loradock_adapters.signing import TrustedKey


@dataclass(frozen=True, slots=True)
class Limits:
    """The highest rank, the largest size of an adapter's files together in bytes, and what the engine computes in.

    `dtype` is the engine's setting: "float16", "bfloat16", "float32", or "auto" for the base model's own.
    `require_signature`: only what one of `trusted_keys` signed.
    """

    max_rank: int = 64
    max_bytes: int = 1 << 30
    dtype: str = "auto"
    require_signature: bool = False
    trusted_keys: tuple[TrustedKey, ...] = ()
