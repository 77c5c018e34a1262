"""The secrets of API keys: made here, shown once by whoever asked, kept as SHA-256 only.

A secret is 256 random bits, so a slow hash would protect nothing. It knows no database.
"""

from __future__ import annotations

import hashlib
import secrets

MAX_SECRET = 512  # characters; longer ones are not hashed at all
STRONG_SECRET = 16
PREFIX = 11  # characters of a secret that may be shown


def new_secret() -> str:
    """A fresh one, in visible ASCII."""
    return f"ld-{secrets.token_urlsafe(32)}"


def fits_a_header(secret: str) -> bool:
    """Whether it could be somebody's secret at all."""
    return 1 <= len(secret) <= MAX_SECRET and secret.isascii() and secret.isprintable() and " " not in secret


def sha256_of(secret: str) -> bytes:
    """What is kept of a secret that `fits_a_header`."""
    return hashlib.sha256(secret.encode("ascii")).digest()


def prefix_of(secret: str) -> str:
    """The beginning, to recognise it by: never more than a third, for secrets that somebody chose."""
    return secret[: min(PREFIX, len(secret) // 3)]
