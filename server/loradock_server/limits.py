"""What this server allows of an adapter, out of its settings: the same for the check, the gateway and the engine."""

from __future__ import annotations

from loradock_adapters.check import Limits
from loradock_server.settings import Settings


def adapter_limits(settings: Settings) -> Limits:
    """The limits for `check_adapter`."""
    return Limits(
        max_rank=settings.max_rank,
        max_bytes=settings.max_adapter_bytes,
        dtype=settings.dtype,
        require_signature=settings.require_signature,
        trusted_keys=settings.trusted_keys,
    )
