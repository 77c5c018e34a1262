"""An issuer of tokens with real keys, whose JWKS lies on a real HTTP server; it signs what a test wants, lies too."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

from tests.fakes.web import Web, status

ISSUER = "https://login.example/acme"
AUDIENCE = "loradock"
PATH = "/keys"

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def key_of(algorithm: str, number: int = 0, bits: int = 2048) -> Key:
    """The `number`th key for an algorithm."""
    return _made(algorithm, number, bits)


@cache  # RSA keys take a while to make
def _made(algorithm: str, number: int, bits: int) -> Key:
    if algorithm.startswith(("RS", "PS")):
        return rsa.generate_private_key(65537, bits)
    return ec.generate_private_key(ec.SECP256R1()) if algorithm == "ES256" else ed25519.Ed25519PrivateKey.generate()


def jwk_of(key: Key, algorithm: str, **more: Any) -> dict[str, Any]:
    """The public half."""
    made: dict[str, Any] = get_default_algorithms()[algorithm].to_jwk(key.public_key(), as_dict=True)
    return {"use": "sig", "alg": algorithm, **made, **more}


@dataclass(slots=True)
class Issuer:
    """Publishes `keys` on a web server."""

    web: Web
    keys: list[dict[str, Any]] = field(default_factory=list)

    def publish(self, *keys: dict[str, Any]) -> None:
        self.keys = list(keys)
        self.answer(json.dumps({"keys": self.keys}).encode())

    def answer(self, body: bytes, code: int = 200) -> None:
        self.web.on(PATH, status(code, body, content_type="application/json"))

    @property
    def url(self) -> str:
        return self.web.url + PATH

    @property
    def fetches(self) -> int:
        return sum(asked.path == PATH for asked in self.web.asked)


def claims(**more: Any) -> dict[str, Any]:
    """Good ones, changed; None leaves one out."""
    now = int(time.time())
    good = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "ada",
        "iat": now,
        "nbf": now,
        "exp": now + 600,
        "scope": "openid loradock:infer",
    }
    return {name: value for name, value in {**good, **more}.items() if value is not None}


def sign(said: dict[str, Any], key: Any = None, algorithm: str = "RS256", kid: Any = "one", **header: Any) -> str:
    """A token, signed by the first key of the algorithm unless another is given."""
    named = {**({} if kid is None else {"kid": kid}), **header}
    return jwt.encode(said, key_of(algorithm) if key is None else key, algorithm, headers=named)


def by_hand(header: dict[str, Any], said: Any, signature: bytes = b"") -> str:
    """A token that no library would make."""
    return ".".join(_b64(part) for part in (json.dumps(header).encode(), json.dumps(said).encode(), signature))


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
