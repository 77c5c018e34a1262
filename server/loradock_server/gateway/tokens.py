"""Tokens (JWT) of one issuer instead of API keys: who is their bearer, if they are good.

Signature, issuer, audience and times are judged by PyJWT; here is decided what may be asked of it, and what a good
token's claims mean. It knows no key: `jwks` does.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt

from loradock_adapters.key_settings import MAX_GLOBS, SCOPES, TENANT_PATTERN, compiled, read_glob, read_scope
from loradock_adapters.rate_limits import NO_LIMITS, RateLimits
from loradock_server.gateway.caller import Caller
from loradock_server.gateway.errors import InvalidKey
from loradock_server.gateway.jwks import ALGORITHMS, SigningKeys

LEEWAY_SECONDS = 30  # by which two clocks may differ

_MAX_TOKEN = 16_384  # characters
_MAX_KID = 200
_TENANT = re.compile(TENANT_PATTERN)
_ACCEPTED = frozenset(ALGORITHMS.values())
_WHY: Mapping[type[Exception], str] = {
    jwt.ExpiredSignatureError: "it has expired",
    jwt.ImmatureSignatureError: "it is not valid yet",
    jwt.InvalidAudienceError: "it is meant for another audience",
    jwt.InvalidIssuerError: "it comes from another issuer",
    jwt.InvalidSignatureError: "its signature is not its issuer's",
}


@dataclass(frozen=True, slots=True)
class Claims:
    """Whose tokens are taken, and which claims say what. Scopes are words that begin with `scope_prefix`."""

    issuer: str
    audiences: tuple[str, ...]
    tenant: str = "tenant"
    scopes: str = "scope"
    scope_prefix: str = "loradock:"
    adapters: str = "adapters"
    limits: RateLimits = NO_LIMITS  # of each bearer


def looks_like_a_token(secret: str) -> bool:
    """Three parts with dots between, which our own secrets do not have."""
    return secret.count(".") == 2


class TokenVerifier:
    """Turns tokens into callers."""

    def __init__(self, claims: Claims, keys: SigningKeys) -> None:
        self._claims = claims
        self._keys = keys

    async def follow(self) -> None:
        """Keep the issuer's keys until cancelled."""
        await self._keys.follow()

    async def verify(self, token: str) -> tuple[Caller, float]:
        """The bearer, and until when the token is good, in seconds since 1970.

        Raises InvalidKey, and SignersUnavailable when the issuer's keys cannot be had.
        """
        kid, algorithm = _header(token)
        key = await self._keys.find(kid, algorithm)
        try:
            found = jwt.decode(
                token,
                key=key,
                algorithms=[algorithm],
                audience=list(self._claims.audiences),
                issuer=self._claims.issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
            return self._caller(found), float(found["exp"]) + LEEWAY_SECONDS
        except jwt.MissingRequiredClaimError as error:
            raise _refused(f"it has no claim {error.claim!r}") from error
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            why = next((_WHY[kind] for kind in type(error).__mro__ if kind in _WHY), "it cannot be read")
            raise _refused(why) from error

    def _caller(self, found: Mapping[str, Any]) -> Caller:
        says, subject = self._claims, found["sub"]
        # Of the issuer too, so that a change of issuer makes other people of them.
        id = hashlib.sha256(f"{says.issuer}\0{subject}".encode("utf-8", "surrogatepass")).hexdigest()[:24]
        return Caller(
            f"jwt-{id}",
            subject[:100] if subject.isprintable() else ascii(subject[:100]),
            self._scopes(found.get(says.scopes)),
            says.limits,
            _tenant(says.tenant, found.get(says.tenant)),
            _names(says.adapters, found.get(says.adapters)),
        )

    def _scopes(self, value: Any) -> frozenset[str]:
        words = _words(self._claims.scopes, value) or []
        prefix = self._claims.scope_prefix
        named = (read_scope(word.removeprefix(prefix)) for word in words if word.startswith(prefix))
        return frozenset(word for word in named if word in SCOPES)


def _header(token: str) -> tuple[str | None, str]:
    """The id of the key and the algorithm that a token says it was signed with. Raises InvalidKey."""
    if len(token) > _MAX_TOKEN:
        raise _refused(f"it has {len(token)} characters, more than {_MAX_TOKEN}")
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
        raise _refused("it cannot be read") from error
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in _ACCEPTED:
        raise _refused(f"its algorithm is none of {', '.join(sorted(_ACCEPTED))}")
    if "crit" in header:
        raise _refused("its header demands what this server does not know")
    if kid is not None and (not isinstance(kid, str) or len(kid) > _MAX_KID):
        raise _refused("its key id is none")
    return kid, algorithm


def _tenant(claim: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not _TENANT.fullmatch(value):
        raise _refused(f"its claim {claim!r} names no tenant; that is 1 to 63 of A-Z a-z 0-9 . _ -")
    return value


def _names(claim: str, value: Any) -> re.Pattern[str] | None:
    words = _words(claim, value)
    if words is None:
        return None
    if not 1 <= len(words) <= MAX_GLOBS:
        raise _refused(f"its claim {claim!r} has {len(words)} patterns; 1 to {MAX_GLOBS} are allowed")
    try:
        return compiled(tuple(read_glob(word) for word in words))
    except ValueError as error:
        raise _refused(f"its claim {claim!r} is of no use: {error}") from error


def _words(claim: str, value: Any) -> list[str] | None:
    """A claim that is a list of words, or one text with spaces between them."""
    if value is None:
        return None
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise _refused(f"its claim {claim!r} is no list of words")
    return words


def _refused(why: str) -> InvalidKey:
    return InvalidKey(f"the token was not accepted: {why}")
