"""Whatever is sent as a token: it is refused in words, never an accident."""

from __future__ import annotations

import asyncio
import json
import os
import time
from functools import cache
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.algorithms import get_default_algorithms

from loradock_server.gateway.errors import InvalidKey
from loradock_server.gateway.jwks import SigningKeys
from loradock_server.gateway.tokens import Claims, TokenVerifier
from tests.fakes.issuer import AUDIENCE, ISSUER, by_hand, claims, jwk_of, key_of, sign

EXAMPLES = 3000 if os.environ.get("LONG_TESTS") else 100

ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
HEADERS = st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jku", "jwk", "x5c", "enc"]), VALUES)
KNOWN = st.fixed_dictionaries({"alg": st.just("RS256"), "kid": st.just("one")})
SAID = st.dictionaries(st.sampled_from(["exp", "nbf", "iat", "aud", "iss", "sub", "jti", "scope", "tenant"]), VALUES)


class Published:
    """A JWKS with one key, at hand."""

    async def read(self) -> bytes:
        return json.dumps({"keys": [jwk_of(key_of("RS256"), "RS256", kid="one")]}).encode()


@cache
def verifier() -> TokenVerifier:
    return TokenVerifier(Claims(ISSUER, (AUDIENCE,)), SigningKeys(Published()))


async def judged(token: str) -> str:
    try:
        caller, _ = await verifier().verify(token)
    except InvalidKey:
        return ""
    return caller.id


def judge(token: str) -> str:
    return asyncio.run(judged(token))


def test_the_verifier_takes_a_good_one() -> None:
    assert judge(sign(claims())).startswith("jwt-")


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.text(max_size=60) | st.tuples(*[st.text(max_size=20)] * 3).map(".".join))
def test_texts_are_no_tokens(token: str) -> None:
    assert judge(token) == ""


@settings(max_examples=EXAMPLES, deadline=None)
@given(HEADERS | KNOWN, SAID, st.binary(max_size=300))
def test_what_nobody_signed_opens_nothing(header: dict[str, Any], said: dict[str, Any], signature: bytes) -> None:
    assert judge(by_hand(header, {**claims(), **said}, signature)) == ""


@settings(max_examples=EXAMPLES // 3, deadline=None)
@given(SAID)
def test_even_its_issuers_nonsense_is_refused_in_words_or_taken(said: dict[str, Any]) -> None:
    head, payload, _ = by_hand({"alg": "RS256", "kid": "one"}, {**claims(), **said}).split(".")
    signature = get_default_algorithms()["RS256"].sign(f"{head}.{payload}".encode(), key_of("RS256"))
    found = judge(".".join((head, payload, by_hand({}, {}, signature).split(".")[2])))
    whole = {**claims(), **said}
    if found:
        assert (whole["iss"], type(whole["sub"])) == (ISSUER, str)
        assert AUDIENCE in whole["aud"]
        assert float(whole["exp"]) > time.time() - 60
