"""The public keys by which an issuer's tokens are verified: a JWKS from a web address or a file, kept in memory.

What comes is taken for hostile: only keys of the three algorithms below are used, never a shared secret, and where the
keys are is the operator's word alone, never a token's. While the address does not answer, the last keys go on, a day at
most. It knows no token.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx
import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from loradock_server.gateway.errors import InvalidKey, SignersUnavailable

ALGORITHMS: Mapping[tuple[str, str | None], str] = {
    ("RSA", None): "RS256",
    ("EC", "P-256"): "ES256",
    ("OKP", "Ed25519"): "EdDSA",
}
"""What is accepted, by the kind of key (kty, crv)."""

REFRESH_SECONDS = 600.0
RETRY_SECONDS = 30.0
UNKNOWN_SECONDS = 10.0  # between two looks for a key that nobody knows
LAST_SECONDS = 24 * 3600.0

_MAX_BYTES = 1 << 18
_MAX_KEYS = 100
_MAX_KID = 200
_FETCH_SECONDS = 5.0
_SMALLEST_RSA = 2048

_Place = tuple[str | int, str]

_log = logging.getLogger(__name__)


class Fetch(Protocol):
    """Where the keys are. `read` gives the JWKS document; raises OSError or httpx.HTTPError."""

    async def read(self) -> bytes: ...


class WebKeys:
    """A JWKS at a web address; no redirect is followed."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._tls: ssl.SSLContext | None = None
        # A proxy between this machine and itself has no business here.
        self._proxies = urlsplit(url).hostname not in ("127.0.0.1", "::1", "localhost")

    async def read(self) -> bytes:
        if self._tls is None:
            self._tls = await asyncio.to_thread(ssl.create_default_context)
        async with (
            asyncio.timeout(_FETCH_SECONDS),
            httpx.AsyncClient(verify=self._tls, timeout=_FETCH_SECONDS, trust_env=self._proxies) as client,
            client.stream("GET", self._url, headers={"accept": "application/json"}) as answer,
        ):
            if answer.status_code != 200:
                raise OSError(f"{self._url} answered {answer.status_code}")
            found = b""
            async for chunk in answer.aiter_bytes():
                found += chunk
                if len(found) > _MAX_BYTES:
                    raise OSError(f"{self._url} sent more than {_MAX_BYTES} bytes")
        return found

    def __str__(self) -> str:
        return self._url


class FileKeys:
    """A JWKS in a file, read again like one on the web."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def read(self) -> bytes:
        return await asyncio.to_thread(self._read)

    def _read(self) -> bytes:
        with self._path.open("rb") as file:
            found = file.read(_MAX_BYTES + 1)
        if len(found) > _MAX_BYTES:
            raise OSError(f"{self._path} has more than {_MAX_BYTES} bytes")
        return found

    def __str__(self) -> str:
        return str(self._path)


class SigningKeys:
    """The issuer's keys by id and algorithm. For one event loop."""

    def __init__(self, source: Fetch) -> None:
        self._source = source
        self._keys: Mapping[_Place, jwt.PyJWK] = {}
        self._read_at = -math.inf  # the last time that worked
        self._tried_at = -math.inf
        self._reading = asyncio.Lock()
        self._failing = False

    async def follow(self) -> None:
        """Keep the keys until cancelled."""
        while True:
            await self._refresh()
            await asyncio.sleep(RETRY_SECONDS if self._failing else REFRESH_SECONDS)

    async def find(self, kid: str | None, algorithm: str) -> jwt.PyJWK:
        """The key of this id for this algorithm; without an id, the only one there is for it.

        Raises InvalidKey when there is none, SignersUnavailable when nobody could say.
        """
        found = self._find(kid, algorithm)
        if found is None and not any(known == kid for known, _ in self._keys):
            await self._refresh(unless_within=UNKNOWN_SECONDS)
            found = self._find(kid, algorithm)
        if found is not None:
            return found
        if not self._usable:
            raise SignersUnavailable("the keys of the tokens' issuer cannot be had now; API keys work all the same")
        raise InvalidKey("the token was not accepted: it is signed by a key that its issuer does not publish")

    @property
    def _usable(self) -> bool:
        return time.monotonic() - self._read_at < LAST_SECONDS

    def _find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        if not self._usable:
            return None
        if kid is not None:
            return self._keys.get((kid, algorithm))
        fitting = [key for (_, made_for), key in self._keys.items() if made_for == algorithm]
        return fitting[0] if len(fitting) == 1 else None

    async def _refresh(self, *, unless_within: float = 0.0) -> None:
        """Read the keys, unless somebody else did within so many seconds. A failure leaves those that are there."""
        async with self._reading:
            if time.monotonic() - self._tried_at < unless_within:
                return
            self._tried_at = time.monotonic()
            try:
                self._keys = _usable_keys(await self._source.read())
            except (OSError, TimeoutError, httpx.HTTPError, httpx.InvalidURL, ValueError, RecursionError) as error:
                if not self._failing:
                    _log.error("the keys of the tokens' issuer cannot be had from %s: %r", self._source, error)
                self._failing = True
                return
            self._read_at = time.monotonic()
            self._failing = False


def _usable_keys(document: bytes) -> Mapping[_Place, jwt.PyJWK]:
    """Raises ValueError for what is no JWKS; keys that are of no use here are left out."""
    read = json.loads(document)
    listed = read.get("keys") if isinstance(read, dict) else None
    if not isinstance(listed, list) or len(listed) > _MAX_KEYS:
        raise ValueError(f"that is no JWKS: an object with at most {_MAX_KEYS} `keys` is needed")
    found: dict[_Place, jwt.PyJWK] = {}
    for number, one in enumerate(listed):
        algorithm = _algorithm_of(one)
        if algorithm is None:
            continue
        try:
            key = jwt.PyJWK(one, algorithm)
        except (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, KeyError, AttributeError) as error:
            _log.warning("key %d of the JWKS is of no use: %r", number, error)
            continue
        if isinstance(key.key, RSAPublicKey) and key.key.key_size < _SMALLEST_RSA:
            _log.warning("key %d of the JWKS is left out: RSA of %d bits", number, key.key.key_size)
            continue
        # One without an id is known by its place, a number, which no token can name: their ids are texts.
        found[one.get("kid", number), algorithm] = key
    return found


def _algorithm_of(one: Any) -> str | None:
    """What a key of the document may be used for here; None for nothing."""
    if not isinstance(one, dict) or "d" in one or one.get("use", "sig") != "sig":
        return None
    kind, curve, kid = one.get("kty"), one.get("crv"), one.get("kid", "")
    if not isinstance(kind, str) or not isinstance(curve, str | None) or not isinstance(kid, str):
        return None
    algorithm = ALGORITHMS.get((kind, curve))
    if len(kid) > _MAX_KID or algorithm is None or one.get("alg", algorithm) != algorithm:
        return None
    return algorithm
