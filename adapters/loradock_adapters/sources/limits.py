"""How much a source may be: bytes, files, seconds."""

from __future__ import annotations

from dataclasses import dataclass

# What wraps the files on their way: tar headers and padding, a zip's directory.
WRAPPING_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class SourceLimits:
    """Bytes of all files together, seconds for a whole fetch, and what an archive may look like.

    `connect` and `silence` are the seconds that a server has to accept, and to send the next piece. `max_ratio` is how
    many bytes one packed byte may become; adapters' weights hardly shrink at all.
    """

    max_bytes: int = 1 << 30
    timeout: float = 600.0
    connect: float = 10.0
    silence: float = 30.0
    max_entries: int = 1000
    max_path_bytes: int = 512
    max_depth: int = 8
    max_ratio: int = 100

    @property
    def max_wrapped_bytes(self) -> int:
        """For an archive as it is sent, and for a tar's stream with headers."""
        return self.max_bytes + WRAPPING_BYTES
