"""Tokens beside keys: a real issuer's are taken, and nobody else's, however they are dressed up."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from loradock_server.gateway import auth, jwks
from loradock_server.settings import SettingsError, load_settings
from tests.fakes.issuer import AUDIENCE, ISSUER, Issuer, by_hand, claims, jwk_of, key_of, sign
from tests.fakes.web import redirect, running_web, stall
from tests.server.gateway.conftest import Gateway, Start, eventually

ALGORITHMS = ("RS256", "ES256", "EdDSA")
Open = Callable[..., AbstractContextManager[Gateway]]


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running_web() as web:
        made = Issuer(web)
        made.publish(jwk_of(key_of("RS256"), "RS256", kid="one"))
        yield made


@pytest.fixture
def started(start: Start, issuer: Issuer) -> Open:
    """A gateway that takes the issuer's tokens."""

    def begin(**flags: Any) -> AbstractContextManager[Gateway]:
        whose = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "jwt_jwks_url": issuer.url}
        return start(**{**whose, **flags})

    return begin


def asked(gateway: Gateway, token: str, path: str = "/v1/models") -> tuple[int, str]:
    answer = gateway.http.get(path, headers={"authorization": f"Bearer {token}"})
    return answer.status_code, "" if answer.is_success else str(answer.json()["error"]["message"])


def seen(gateway: Gateway, token: str) -> list[str]:
    answer = gateway.http.get("/v1/models", headers={"authorization": f"Bearer {token}"})
    return [model["id"] for model in answer.raise_for_status().json()["data"]]


def test_good_tokens_open_what_their_claims_say(started: Open, issuer: Issuer) -> None:
    issuer.publish(*(jwk_of(key_of(algorithm), algorithm, kid=algorithm) for algorithm in ALGORITHMS))
    with started() as gateway:
        gateway.register("support-bot")
        for algorithm in ALGORITHMS:
            token = sign(claims(), algorithm=algorithm, kid=algorithm)
            assert seen(gateway, token) == ["tiny", "support-bot"]
            assert asked(gateway, token, "/admin/keys")[0] == 403
        token = sign(claims(adapters=["support-*"], scope=["loradock:inference"]), kid="RS256")
        assert seen(gateway, token) == ["support-bot"]
        assert seen(gateway, sign(claims(adapters="tiny other"), kid="RS256")) == ["tiny"]
        for scope in (None, "", "openid", "infer admin", "loradock:", "xloradock:infer"):
            status, message = asked(gateway, sign(claims(scope=scope), kid="RS256"))
            assert (status, "'ada' has the scope none" in message) == (403, True), scope
        assert asked(gateway, sign(claims(aud=["other", AUDIENCE]), kid="RS256"))[0] == 200
        assert issuer.fetches == 1


def test_an_administrators_token_administers_and_is_audited_by_its_subject(started: Open) -> None:
    with started() as gateway:
        headers = {"authorization": f"Bearer {sign(claims(scope='loradock:admin', sub='root@acme'))}"}
        assert gateway.http.post("/admin/keys", json={"name": "app"}, headers=headers).status_code == 201
        event = gateway.http.get("/admin/audit").json()["data"][0]
        assert event["actor"]["name"] == "root@acme"
        assert event["actor"]["key"].startswith("jwt-")
        assert gateway.http.get("/v1/models", headers=headers).status_code == 403


def test_a_tenants_tokens_and_keys_share_a_prefix_cache(started: Open) -> None:
    with started() as gateway:
        key = gateway.http.post("/admin/keys", json={"name": "app", "tenant": "acme"}).json()["secret"]
        tokens = [sign(claims(tenant=tenant, sub=sub)) for tenant, sub in (("acme", "a"), (None, "a"), (None, "b"))]
        for secret in (key, *tokens):
            gateway.openai(secret).completions.create(model="tiny", prompt="x")
        salts = [one.body["cache_salt"] for one in gateway.engine.history]
        assert salts[0] == salts[1]
        assert len(set(salts)) == 3


def test_the_claims_may_have_other_names(started: Open) -> None:
    flags = {
        "jwt_scopes_claim": "roles",
        "jwt_scope_prefix": "LoRADock.",
        "jwt_adapters_claim": "https://acme.example/adapters",
        "jwt_audience": "other, another".replace(",", ""),
    }
    with started(**flags) as gateway:
        said = {"roles": ["LoRADock.infer"], "https://acme.example/adapters": ["tiny"], "aud": "another"}
        assert seen(gateway, sign(claims(**said))) == ["tiny"]


RSA = jwk_of(key_of("RS256"), "RS256")
PEM = key_of("RS256").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def now() -> int:
    return int(time.time())


def hs256(secret: bytes, **header: Any) -> str:
    """Signed with a secret that everybody knows: the public key, which a careless verifier takes for one."""
    unsigned = by_hand({"alg": "HS256", "typ": "JWT", "kid": "one", **header}, claims()).rpartition(".")[0]
    signature = hmac.new(secret, unsigned.encode(), hashlib.sha256).digest()
    return f"{unsigned}.{by_hand({}, {}, signature).rpartition('.')[2]}"


HOSTILE: dict[str, tuple[Callable[[], str], str]] = {
    "expired": (lambda: sign(claims(exp=now() - 3600)), "it has expired"),
    "without exp": (lambda: sign(claims(exp=None)), "no claim 'exp'"),
    "exp is a text": (lambda: sign(claims(exp="tomorrow")), "cannot be read"),
    "exp is infinite": (lambda: by_hand({"alg": "RS256", "kid": "one"}, claims(exp=1e999)), "signature"),
    "not yet": (lambda: sign(claims(nbf=now() + 3600)), "not valid yet"),
    "issued tomorrow": (lambda: sign(claims(iat=now() + 86400)), "not valid yet"),
    "other audience": (lambda: sign(claims(aud="other")), "another audience"),
    "other audiences": (lambda: sign(claims(aud=["other", "loradock2"])), "another audience"),
    "without audience": (lambda: sign(claims(aud=None)), "no claim 'aud'"),
    "other issuer": (lambda: sign(claims(iss=ISSUER + "/")), "another issuer"),
    "without issuer": (lambda: sign(claims(iss=None)), "no claim 'iss'"),
    "without subject": (lambda: sign(claims(sub=None)), "no claim 'sub'"),
    "subject is a number": (lambda: by_hand({"alg": "RS256", "kid": "one"}, claims(sub=7)), "signature"),
    "alg none": (lambda: by_hand({"alg": "none"}, claims()), "its algorithm is none of"),
    "alg None with a kid": (lambda: by_hand({"alg": "None", "kid": "one"}, claims()), "its algorithm is none of"),
    "alg is a list": (lambda: by_hand({"alg": ["RS256"], "kid": "one"}, claims()), ""),
    "no alg": (lambda: by_hand({"kid": "one"}, claims()), ""),
    "HS256 with the public key as PEM": (lambda: hs256(PEM), "its algorithm is none of"),
    "HS256 with the modulus": (lambda: hs256(RSA["n"].encode()), "its algorithm is none of"),
    "HS256 that says RS256": (lambda: hs256(PEM, alg="RS256"), "its signature"),
    "RS512": (lambda: sign(claims(), key_of("RS256"), "RS512"), "its algorithm is none of"),
    "PS256": (lambda: sign(claims(), key_of("RS256"), "PS256"), "its algorithm is none of"),
    "somebody else's key": (lambda: sign(claims(), key_of("RS256", 1)), "its signature"),
    "the right kid for another algorithm": (lambda: sign(claims(), algorithm="EdDSA"), "does not publish"),
    "unknown kid": (lambda: sign(claims(), kid="two"), "does not publish"),
    "kid that climbs": (lambda: sign(claims(), kid="../../../../dev/null"), "does not publish"),
    "kid that is SQL": (lambda: sign(claims(), kid="' UNION SELECT 'x"), "does not publish"),
    "kid that is a place": (lambda: sign(claims(), kid="https://evil.example/keys"), "does not publish"),
    "kid that is a number": (lambda: by_hand({"alg": "RS256", "kid": 1}, claims()), ""),
    "kid that is long": (lambda: sign(claims(), kid="x" * 1000), "its key id is none"),
    "its own key along": (lambda: sign(claims(), key_of("RS256", 1), jwk=jwk_of(key_of("RS256", 1), "RS256")), "signa"),
    "its own key's address": (lambda: sign(claims(), key_of("RS256", 1), jku="https://evil.example/keys"), "signature"),
    "critical extension": (lambda: sign(claims(), crit=["x"], x=1), ""),
    "signature cut off": (lambda: sign(claims())[:-20], ""),
    "no signature": (lambda: sign(claims()).rpartition(".")[0] + ".", "its signature"),
    "claims changed": (lambda: with_claims(sign(claims()), claims(sub="root", scope="loradock:admin")), "signature"),
    "deep header": (lambda: "eyJhIjog" + "W1tb" * 3000 + ".e30.e30", ""),
    "huge": (lambda: sign(claims(filler="x" * 20_000)), "more than 16384"),
    "empty parts": (lambda: "..", ""),
    "no base64": (lambda: "a!.b!.c!", ""),
    "claims are a list": (lambda: sign_raw([]), ""),
    "tenant with a slash": (lambda: sign(claims(tenant="a/b")), "names no tenant"),
    "tenant is a list": (lambda: sign(claims(tenant=["acme"])), "names no tenant"),
    "no patterns": (lambda: sign(claims(adapters=[])), "has 0 patterns"),
    "odd pattern": (lambda: sign(claims(adapters=["bot@3"])), "of no use"),
    "patterns are numbers": (lambda: sign(claims(adapters=[1])), "no list of words"),
    "too many patterns": (lambda: sign(claims(adapters=["a"] * 101)), "has 101 patterns"),
    "scopes are an object": (lambda: sign(claims(scope={"loradock:admin": True})), "no list of words"),
}


def with_claims(token: str, said: dict[str, Any]) -> str:
    head, _, signature = token.split(".")
    return ".".join((head, by_hand({}, said).split(".")[1], signature))


def sign_raw(payload: Any) -> str:
    from jwt import api_jws

    return api_jws.encode(json.dumps(payload).encode(), key_of("RS256"), "RS256", headers={"kid": "one"})


def test_hostile_tokens_open_nothing(started: Open, issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "UNKNOWN_SECONDS", 3600.0)  # whatever time the table takes
    with started() as gateway:
        assert asked(gateway, sign(claims()))[0] == 200
        for what, (make, why) in HOSTILE.items():
            for path in ("/v1/models", "/admin/keys"):
                answer = gateway.http.get(path, headers={"authorization": f"Bearer {make()}"})
                assert answer.status_code == 401, (what, answer.text)
                error = answer.json()["error"]
                assert error["code"] == "invalid_api_key", what
                assert why in error["message"], (what, error["message"])
                assert len(error["message"]) < 500
        assert asked(gateway, sign(claims()))[0] == 200
        assert issuer.fetches <= 2, "unknown key ids make nobody ask the issuer again and again"
        assert {one.path for one in issuer.web.asked} == {"/keys"}


HOSTILE_KEYS: dict[str, dict[str, Any]] = {
    "a shared secret": {"kty": "oct", "k": "c2VjcmV0", "kid": "two"},
    "a shared secret that says RS256": {"kty": "oct", "k": "c2VjcmV0", "kid": "two", "alg": "RS256"},
    "for encryption": jwk_of(key_of("RS256", 1), "RS256", kid="two", use="enc"),
    "for another algorithm": jwk_of(key_of("RS256", 1), "RS256", kid="two", alg="RS512"),
    "a private key": jwk_of(key_of("RS256", 1), "RS256", kid="two", d="AQAB"),
    "a short one": jwk_of(key_of("RS256", 2, 1024), "RS256", kid="two"),
    "broken": {"kty": "RSA", "kid": "two", "n": "!", "e": "AQAB"},
    "half": {"kty": "RSA", "kid": "two"},
    "numbers": {"kty": 1, "kid": 2},
    "a curve of its own": {"kty": "EC", "crv": "P-999", "kid": "two", "x": "AA", "y": "AA"},
}


@pytest.mark.filterwarnings("ignore:The RSA key is 1024 bits")
def test_keys_of_no_use_are_left_out_and_the_others_work(started: Open, issuer: Issuer) -> None:
    good = jwk_of(key_of("RS256"), "RS256", kid="one")
    listed: list[Any] = [*HOSTILE_KEYS.values(), None, [], "x", good]
    issuer.answer(json.dumps({"keys": listed}).encode())
    with started() as gateway:
        assert asked(gateway, sign(claims()))[0] == 200
        assert asked(gateway, sign(claims(), key_of("RS256", 1), kid="two"))[0] == 401
        assert asked(gateway, sign(claims(), key_of("RS256", 2, 1024), kid="two"))[0] == 401
        unsigned = by_hand({"alg": "HS256", "kid": "two"}, claims())
        assert asked(gateway, unsigned)[0] == 401


def test_a_token_without_a_key_id_is_taken_when_only_one_key_fits(started: Open, issuer: Issuer) -> None:
    first, second = (jwk_of(key_of("RS256", number), "RS256") for number in (0, 1))
    issuer.publish(first)
    with started() as gateway:
        assert asked(gateway, sign(claims(), kid=None)) == (200, "")
    issuer.publish(first, second)
    with started() as gateway:
        assert asked(gateway, sign(claims(), kid=None))[0] == 401
        assert asked(gateway, sign(claims(), kid="\0" + "0"))[0] == 401


def test_a_new_key_is_found_by_its_id_but_not_asked_for_with_every_token(
    started: Open, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "UNKNOWN_SECONDS", 3600.0)
    with started() as gateway:
        assert asked(gateway, sign(claims()))[0] == 200
        issuer.publish(jwk_of(key_of("RS256", 1), "RS256", kid="two"))
        fresh = sign(claims(), key_of("RS256", 1), kid="two")
        fetches = issuer.fetches
        for number in range(10):
            assert asked(gateway, sign(claims(), key_of("RS256", 1), kid=f"x{number}"))[0] == 401
        assert asked(gateway, fresh)[0] == 401, "somebody looked a moment ago"
        assert issuer.fetches == fetches
        monkeypatch.setattr(jwks, "UNKNOWN_SECONDS", 0.0)
        assert asked(gateway, fresh)[0] == 200
        assert asked(gateway, sign(claims(sub="bob")))[0] == 401, "the key that went is good for nothing"


def test_keys_of_an_issuer_that_took_them_back_go_with_the_next_look(
    started: Open, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "REFRESH_SECONDS", 0.05)
    monkeypatch.setattr(auth, "_SECONDS_OF_A_TOKEN", 0.0)
    with started() as gateway:
        token = sign(claims())
        assert asked(gateway, token)[0] == 200
        issuer.publish()
        eventually(lambda: asked(gateway, token)[0] == 401)


DOWN = ("refuses", "moved", "says nonsense", "is huge", "stalls")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "REFRESH_SECONDS", 0.05)
    monkeypatch.setattr(jwks, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(jwks, "UNKNOWN_SECONDS", 0.0)


@pytest.mark.usefixtures("impatient")
def test_an_issuer_that_is_down_stops_no_key_and_no_known_signer(started: Open, issuer: Issuer) -> None:
    with started() as gateway:
        assert asked(gateway, sign(claims()))[0] == 200
        for how in DOWN:
            fall(issuer, how)
            before = issuer.fetches
            eventually(lambda before=before: issuer.fetches > before + 1)  # type: ignore[misc]
            assert asked(gateway, sign(claims(sub=how)))[0] == 200
            assert asked(gateway, sign(claims(), kid="two"))[0] == 401
            assert asked(gateway, gateway.key)[0] == 200
            issuer.publish(jwk_of(key_of("RS256"), "RS256", kid="one"))


@pytest.mark.usefixtures("impatient")
def test_tokens_wait_for_an_issuer_that_was_never_there(started: Open, issuer: Issuer) -> None:
    fall(issuer, "refuses")
    with started() as gateway:
        status, message = asked(gateway, sign(claims()))
        assert (status, "issuer" in message) == (503, True)
        assert asked(gateway, gateway.key)[0] == 200
        issuer.publish(jwk_of(key_of("RS256"), "RS256", kid="one"))
        eventually(lambda: asked(gateway, sign(claims()))[0] == 200)


def fall(issuer: Issuer, how: str) -> None:
    if how == "refuses":
        issuer.answer(b"{}", 500)
    elif how == "moved":
        issuer.web.on("/other", *issuer.web.routes["/keys"])
        issuer.web.on("/keys", redirect(issuer.web.url + "/other"))
    elif how == "says nonsense":
        issuer.answer(b"[" * 100_000)
    elif how == "is huge":
        issuer.answer(b" " * (1 << 19))
    else:
        import threading

        gate = threading.Event()
        gate.set()
        issuer.web.on("/keys", stall(gate, b"x" * 100, after=10))


def test_known_keys_are_not_believed_for_ever(started: Open, issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "_SECONDS_OF_A_TOKEN", 0.0)
    with started() as gateway:
        assert asked(gateway, sign(claims()))[0] == 200
        issuer.answer(b"", 500)
        monkeypatch.setattr(jwks, "LAST_SECONDS", 0.0)
        assert asked(gateway, sign(claims()))[0] == 503


def test_a_known_token_ends_on_time(started: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loradock_server.gateway.tokens.LEEWAY_SECONDS", 0)
    with started() as gateway:
        ends = now() + 2
        token = sign(claims(exp=ends))
        assert asked(gateway, token)[0] == 200 or time.time() >= ends
        eventually(lambda: asked(gateway, token)[0] == 401)
        assert time.time() >= ends


def test_the_keys_may_lie_in_a_file(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [jwk_of(key_of("ES256"), "ES256", kid="one")]}))
    with start(jwt_issuer=ISSUER, jwt_audience=AUDIENCE, jwt_jwks_file=file) as gateway:
        assert asked(gateway, sign(claims(), algorithm="ES256"))[0] == 200


def test_without_an_issuer_a_token_is_an_unknown_key(gateway: Gateway) -> None:
    status, message = asked(gateway, sign(claims()))
    assert (status, "unknown or revoked" in message) == (401, True)


WHOLE = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "jwt_jwks_url": "https://login.example/keys"}


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ({"jwt_issuer": ISSUER}, "all of"),
        ({**WHOLE, "jwt_audience": ()}, "all of"),
        ({**WHOLE, "jwt_jwks_file": "keys.json"}, "all of"),
        ({**WHOLE, "jwt_jwks_url": "http://login.example/keys"}, "https"),
        ({**WHOLE, "jwt_jwks_url": "file:///etc/passwd"}, "https"),
        ({**WHOLE, "jwt_jwks_url": "https:"}, "https"),
        ({**WHOLE, "jwt_limits": "requests_per_minute=0"}, "from 1 to"),
        ({**WHOLE, "jwt_limits": "rpm=1"}, "no such limit"),
        ({**WHOLE, "jwt_limits": "requests_per_minute"}, "from 1 to"),
    ],
)
def test_settings_that_would_be_half_a_check_are_refused(tmp_path: Path, flags: dict[str, Any], why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        load_settings(home=tmp_path, **flags)


def test_limits_of_bearers_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LORADOCK_JWT_LIMITS", "requests_per_minute=60, tokens_per_day=1000")
    monkeypatch.setenv("LORADOCK_JWT_AUDIENCE", "one two")
    settings = load_settings(home=tmp_path, jwt_issuer=ISSUER, jwt_jwks_url="https://login.example/keys")
    assert settings.jwt_limits.document() == {"requests_per_minute": 60, "tokens_per_day": 1000}
    assert settings.jwt_audience == ("one", "two")
