"""Who is calling: the bearer key or token of a request, and whether it may do what it asks.

Every good secret is known by its hash, in memory, following the registry: a known key costs a hash and a dictionary
look-up. An unknown one makes the registry be asked whether there are newer keys, for all that wait together and twenty
times a second at most. While the registry is away the last known keys go on opening what they opened.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from loradock_adapters.errors import RegistryError
from loradock_adapters.key_settings import ADMIN, INFER
from loradock_adapters.registry import KeyRing, KeyTable
from loradock_server.gateway.caller import ANONYMOUS, LOCAL, Caller
from loradock_server.gateway.errors import InvalidKey, MissingScope, SignersUnavailable
from loradock_server.gateway.key_uses import KeyUses
from loradock_server.gateway.tokens import TokenVerifier, looks_like_a_token

_SECONDS_BETWEEN_READS = 0.05
# A database that is frozen, not gone, says nothing at all; whoever waits for it is told that.
REGISTRY_SECONDS = 20.0
_SECONDS_OF_A_TOKEN = 60.0
_REMEMBERED_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class _Known:
    """A secret that was found good, until when (seconds since 1970), and the id under which its uses are noted."""

    caller: Caller
    until: float = math.inf
    noted_as: str | None = None


class Authenticator:
    """Turns request headers into a caller.

    With `open_inference` nobody needs a key for inference. `local_key` opens everything and is in no registry. With
    `tokens`, those of their issuer are as good as keys.
    """

    def __init__(
        self,
        keys: KeyTable,
        uses: KeyUses,
        *,
        open_inference: bool = False,
        local_key: str | None = None,
        tokens: TokenVerifier | None = None,
    ) -> None:
        self._keys = keys
        self._uses = uses
        self._tokens = tokens
        self._tokens_known = 0
        self._always = {} if local_key is None else {_sha256(local_key): _Known(LOCAL)}
        self._open_inference = open_inference
        self._ring = KeyRing()
        self._known: dict[bytes, _Known] = dict(self._always)
        self._reading = asyncio.Lock()
        self._next: asyncio.Task[RegistryError | None] | None = None
        self._read_at = -math.inf

    async def follow(self) -> None:
        """Keep what tokens are verified by, until cancelled."""
        if self._tokens is not None:
            await self._tokens.follow()

    async def refresh(self) -> None:
        """Read the keys that changed. Raises RegistryError; those known so far stay then."""
        async with self._reading:
            await self._read()

    async def _read(self) -> None:
        ring = await asyncio.to_thread(self._keys.ring, self._ring)
        if ring.secrets is not self._ring.secrets:
            self._forget()
        self._ring = ring

    async def inference(self, headers: Mapping[str, str]) -> Caller:
        """The caller of an inference request. Raises InvalidKey, MissingScope, RegistryError."""
        if not self._open_inference:
            return await self._require(headers, INFER)
        try:
            caller = await self._caller(headers)
        except (InvalidKey, RegistryError, SignersUnavailable):
            return ANONYMOUS
        return caller if INFER in caller.scopes else ANONYMOUS

    async def admin(self, headers: Mapping[str, str]) -> Caller:
        """The caller of an admin request. Raises InvalidKey, MissingScope, RegistryError."""
        return await self._require(headers, ADMIN)

    async def _require(self, headers: Mapping[str, str], scope: str) -> Caller:
        caller = await self._caller(headers)
        if scope not in caller.scopes:
            have = ", ".join(sorted(caller.scopes)) or "none"
            raise MissingScope(
                f"{caller.name!r} has the scope {have}; this needs {scope}: "
                f"`loradock keys create NAME --scope {scope}`, "
                "or a token that has it"
            )
        return caller

    async def _caller(self, headers: Mapping[str, str]) -> Caller:
        secret = _bearer(headers)
        if not secret:
            raise InvalidKey("the request has no API key; send `Authorization: Bearer <key>`")
        digest, now = _sha256(secret), time.time()
        known = self._known.get(digest)
        if known is None or known.until <= now:
            known = await self._look_up(secret)
            self._known[digest] = known
        if known.noted_as is not None:
            self._uses.note(known.noted_as, now)
        return known.caller

    async def _look_up(self, secret: str) -> _Known:
        """Raises InvalidKey, and RegistryError when nobody can say whether there is such a key."""
        found = self._ring.find(secret, datetime.now(UTC))
        if found is None and self._tokens is not None and looks_like_a_token(secret):
            return await self._verify(self._tokens, secret)
        if found is None:
            await self._read_again()
            found = self._ring.find(secret, datetime.now(UTC))
        if found is None:
            raise InvalidKey("the request has an unknown or revoked API key; send `Authorization: Bearer <key>`")
        key = found.key
        ends = [moment.timestamp() for moment in (key.settings.expires_at, found.until) if moment is not None]
        known = _Known(Caller.of(key), min(ends, default=math.inf), key.id)
        if known.until <= time.time():
            raise InvalidKey(f"API key {key.name!r} expired at {_moment(known.until)}; ask for another one")
        return known

    async def _verify(self, tokens: TokenVerifier, token: str) -> _Known:
        """Raises InvalidKey, SignersUnavailable."""
        caller, until = await tokens.verify(token)
        self._tokens_known += 1
        if self._tokens_known > _REMEMBERED_TOKENS:
            self._forget()
        # Not for as long as it is good: its issuer may take back the key that signed it.
        return _Known(caller, min(until, time.time() + _SECONDS_OF_A_TOKEN))

    def _forget(self) -> None:
        self._known, self._tokens_known = dict(self._always), 0

    async def _read_again(self) -> None:
        """Return after a read that began later than this call. Raises RegistryError."""
        if self._next is None:
            self._next = asyncio.create_task(self._read_soon())
        try:
            async with asyncio.timeout(REGISTRY_SECONDS):
                error = await asyncio.shield(self._next)
        except TimeoutError:
            raise RegistryError(f"the registry did not answer within {REGISTRY_SECONDS:g} s") from None
        if error is not None:
            raise error

    async def _read_soon(self) -> RegistryError | None:
        await asyncio.sleep(self._read_at + _SECONDS_BETWEEN_READS - time.monotonic())
        # Only then the next read may be asked for: else they would pile up behind a database that says nothing.
        async with self._reading:
            self._next = None
            self._read_at = time.monotonic()
            try:
                await self._read()
            except RegistryError as error:  # for whoever waits, and nobody may be waiting any more
                return error
        return None


def _sha256(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _bearer(headers: Mapping[str, str]) -> str:
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    # Older clients of Anthropic's send the key by itself.
    return secret.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "").strip()


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
