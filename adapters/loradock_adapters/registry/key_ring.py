"""Every secret that opens something, as one immutable snapshot that a gateway can hold and look things up in.

It knows no database: records in, the key of a secret out. Revoked keys and secrets that ended are not in it; keys that
expired are, so that their holders can be told.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

from loradock_adapters.key_settings import KeySettings
from loradock_adapters.registry.key_secrets import fits_a_header, sha256_of


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What may be shown of a key. `prefix` is the start of the secret, to recognise it by; times are UTC.

    `revision` is the registry's when the key last changed, its uses aside; `last_used_at` is written now and then, not
    with every use; `old_secret_until` is until when the secret before the last rotation is good, None when it is not.
    """

    id: str
    settings: KeySettings
    prefix: str
    revision: int
    created_at: datetime
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    old_secret_until: datetime | None = None

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def scopes(self) -> frozenset[str]:
        return frozenset(self.settings.scopes)


@dataclass(frozen=True, slots=True)
class Held:
    """A secret's key, and when this secret ends, if it was replaced by another."""

    key: KeyRecord
    sha256: bytes
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The secrets as of `revision`, by their SHA-256."""

    revision: int = -1
    secrets: Mapping[bytes, Held] = field(default_factory=lambda: MappingProxyType({}))

    def find(self, secret: str, now: datetime) -> Held | None:
        """The key of this secret, expired or not; None if there is none, or it was revoked, or the secret ended."""
        if not fits_a_header(secret):
            return None
        digest = sha256_of(secret)
        held = self.secrets.get(digest)
        # The look-up compares hashes, which tell nothing of the secret; this comparison leaks no time either.
        if held is None or not hmac.compare_digest(held.sha256, digest):
            return None
        return None if held.until is not None and held.until <= now else held
