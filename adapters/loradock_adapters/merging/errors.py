"""What keeps adapters from being merged."""

from __future__ import annotations

from loradock_adapters.errors import LoraDockError


class MergeError(LoraDockError, ValueError):
    """These adapters cannot be merged so; the message says why and what to do."""
