"""Who is calling: the bearer key of a request, and whether it may do what it asks.

Keys are verified by the registry in a thread and remembered for a few seconds by their hash, so that a busy
key costs a dictionary look-up. A change in the registry (a revoked key is one) forgets all of them at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass

from loradock_adapters.rate_limits import NO_LIMITS, RateLimits
from loradock_adapters.registry import Actor, KeyTable
from loradock_adapters.registry.keys import ADMIN, INFERENCE
from loradock_server.gateway.errors import InvalidKey, MissingScope

_REMEMBERED_SECONDS = 5.0
_REMEMBERED_KEYS = 4096


@dataclass(frozen=True, slots=True)
class Caller:
    """The key behind a request; `id` is safe to log."""

    id: str
    name: str
    scopes: frozenset[str]
    limits: RateLimits = NO_LIMITS

    def actor(self, origin: str) -> Actor:
        """This caller as the registry's audit names it; `origin` is the address the request came from."""
        return Actor(self.name, self.id, origin)


LOCAL = Caller("local", "this server", frozenset({ADMIN, INFERENCE}))
ANONYMOUS = Caller("anonymous", "anonymous", frozenset({INFERENCE}))


class Authenticator:
    """Turns request headers into a caller.

    With `open_inference` nobody needs a key for inference. `local_key` opens everything and is in no registry.
    """

    def __init__(self, keys: KeyTable, *, open_inference: bool, local_key: str | None = None) -> None:
        self._keys = keys
        self._local = None if local_key is None else _sha256(local_key)
        self._open_inference = open_inference
        self._remembered: dict[bytes, tuple[float, Caller | None]] = {}

    def forget(self) -> None:
        """Ask the registry again for every key."""
        self._remembered.clear()

    async def inference(self, headers: Mapping[str, str]) -> Caller:
        """The caller of an inference request. Raises InvalidKey or MissingScope."""
        if self._open_inference:
            caller = await self._caller(headers)
            return caller if caller is not None and INFERENCE in caller.scopes else ANONYMOUS
        return await self._require(headers, INFERENCE)

    async def admin(self, headers: Mapping[str, str]) -> Caller:
        """The caller of an admin request. Raises InvalidKey or MissingScope."""
        return await self._require(headers, ADMIN)

    async def _require(self, headers: Mapping[str, str], scope: str) -> Caller:
        caller = await self._caller(headers)
        if caller is None:
            found = "an unknown or revoked API key" if _bearer(headers) else "no API key"
            raise InvalidKey(f"the request has {found}; send `Authorization: Bearer <key>`")
        if scope not in caller.scopes:
            have = ", ".join(sorted(caller.scopes))
            raise MissingScope(
                f"API key {caller.name!r} has the scope {have}; this needs {scope}: "
                f"`loradock keys create NAME --scope {scope}`"
            )
        return caller

    async def _caller(self, headers: Mapping[str, str]) -> Caller | None:
        secret = _bearer(headers)
        if not secret:
            return None
        digest = _sha256(secret)
        if self._local is not None and hmac.compare_digest(digest, self._local):
            return LOCAL
        now = time.monotonic()
        known = self._remembered.get(digest)
        if known is not None and known[0] > now:
            return known[1]
        record = await asyncio.to_thread(self._keys.verify, secret)
        caller = None if record is None else Caller(record.id, record.name, record.scopes)
        if len(self._remembered) >= _REMEMBERED_KEYS:
            self._remembered.clear()
        self._remembered[digest] = (now + _REMEMBERED_SECONDS, caller)
        return caller


def _sha256(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _bearer(headers: Mapping[str, str]) -> str:
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    # Older clients of Anthropic's send the key by itself.
    return secret.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "").strip()
