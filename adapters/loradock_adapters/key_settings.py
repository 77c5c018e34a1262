"""What is said of an API key: whose it is, what it opens, which adapters, until when, how much.

Strict values and a merge patch (RFC 7396) that changes them. It knows no secret, no request and no clock of its own.
"""

from __future__ import annotations

import difflib
import fnmatch
import json
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
)

from loradock_adapters.errors import InvalidLimits, InvalidSettings
from loradock_adapters.faults import Fault
from loradock_adapters.rate_limits import HIGHEST, NO_LIMITS, RateLimits

ADMIN = "admin"
INFER = "infer"
SCOPES = frozenset({ADMIN, INFER})
EXPIRES_IN = "expires_in"
"""In a patch instead of `expires_at`: seconds from now, by the clock of whoever keeps the key."""

MAX_GLOBS = 100
MAX_LIFE = timedelta(days=3660)
_OLD_WORDS = {"inference": INFER}  # what the first release called it
_GLOB = re.compile(r"[A-Za-z0-9._/*?!\[\]-]{1,200}")
TENANT_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("use printable characters only")
    return text


def read_glob(glob: str) -> str:
    """The pattern unchanged. Raises ValueError for what could match no name."""
    if "@" in glob:
        raise ValueError("a pattern is for names: write it without @version or @alias")
    if not _GLOB.fullmatch(glob):
        raise ValueError("a pattern has 1 to 200 of A-Z a-z 0-9 . _ / - and the wildcards * ? [ ] !")
    return glob


def read_scope(word: Any) -> Any:
    """The scope as it is called today."""
    return _OLD_WORDS.get(word, word) if isinstance(word, str) else word


def _known_scope(word: str) -> str:
    if word not in SCOPES:
        raise ValueError(f"choose from {', '.join(sorted(SCOPES))}")
    return word


def _limits_schema() -> dict[str, Any]:
    each = {name: {"type": ["integer", "null"], "minimum": 1, "maximum": high} for name, high in HIGHEST.items()}
    return {"type": "object", "properties": each, "additionalProperties": False}


Glob = Annotated[str, AfterValidator(read_glob), WithJsonSchema({"type": "string", "pattern": f"^{_GLOB.pattern}$"})]
Scope = Annotated[
    str,
    BeforeValidator(read_scope),
    AfterValidator(_known_scope),
    WithJsonSchema({"enum": [*sorted(SCOPES), *_OLD_WORDS]}),
]
Limits = Annotated[
    RateLimits,
    PlainValidator(lambda found: found if isinstance(found, RateLimits) else RateLimits.read(found)),
    PlainSerializer(RateLimits.document),
    WithJsonSchema(_limits_schema()),
]


class KeySettings(BaseModel):
    """Everything of a key that may be changed. Times are aware."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_printable)] = Field(
        description="whose it is, for people"
    )
    scopes: tuple[Scope, ...] = Field(
        default=(INFER,), min_length=1, max_length=10, description="infer opens /v1, admin the administration"
    )
    tenant: str | None = Field(
        default=None, pattern=f"^{TENANT_PATTERN}$", description="keys of one tenant share its prefix cache"
    )
    adapters: tuple[Glob, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_GLOBS,
        description="patterns of the names it may ask for, the base model's too (* ? [abc]); null: every one",
    )
    expires_at: AwareDatetime | None = Field(default=None, description="it opens nothing from then on; null: never")
    limits: Limits = Field(default=NO_LIMITS, description="how much it may ask for")

    def document(self) -> dict[str, Any]:
        """What was said, as JSON: nothing of what was not."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def patched(self, patch: Mapping[str, Any], now: datetime) -> KeySettings:
        """Merged with a JSON merge patch, where null means: say nothing any more. Raises InvalidSettings."""
        return _merged(self.document(), patch, now, self.expires_at)

    @classmethod
    def new(cls, said: Mapping[str, Any], now: datetime) -> KeySettings:
        """Those of a key that is to be made. Raises InvalidSettings."""
        return _merged({}, said, now, None)


@lru_cache(maxsize=1024)
def compiled(globs: tuple[str, ...]) -> re.Pattern[str]:
    """One expression that matches the names which one of the patterns means."""
    return re.compile("|".join(fnmatch.translate(glob) for glob in globs))


def _merged(before: Mapping[str, Any], patch: Mapping[str, Any], now: datetime, expiry: datetime | None) -> KeySettings:
    merged = {**before, **patch}
    limits, old = patch.get("limits"), before.get("limits")
    if isinstance(limits, Mapping) and isinstance(old, Mapping):
        merged["limits"] = {name: value for name, value in {**old, **limits}.items() if value is not None}
    _read_expires_in(merged, patch, now)
    given = {name: value for name, value in merged.items() if value is not None}
    try:
        # From text, because only there a strict reading takes a list for a tuple and a text for a time.
        read = KeySettings.model_validate_json(json.dumps(given))
    except ValidationError as error:
        raise InvalidSettings(_faults(error)) from error
    if read.expires_at is not None:
        _require_sensible(read.expires_at, now, expiry)
    return read.model_copy(update={"scopes": tuple(sorted(set(read.scopes)))})


def _read_expires_in(merged: dict[str, Any], patch: Mapping[str, Any], now: datetime) -> None:
    seconds = merged.pop(EXPIRES_IN, None)
    if seconds is None:
        return
    longest = int(MAX_LIFE.total_seconds())
    if patch.get("expires_at") is not None:
        _refuse(EXPIRES_IN, seconds, "expires_at is given too", "give one of them")
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not 1 <= seconds <= longest:
        _refuse(EXPIRES_IN, seconds, f"must be a whole number of seconds from 1 to {longest}", "give such a number")
    merged["expires_at"] = (now + timedelta(seconds=seconds)).replace(microsecond=0).isoformat()


def _require_sensible(expires_at: datetime, now: datetime, before: datetime | None) -> None:
    """A past that was there before may stay, or an expired key could never be renamed."""
    if expires_at == before:
        return
    # Compared before any arithmetic, which year 9999 would not survive.
    if expires_at <= now:
        _refuse("expires_at", expires_at.isoformat(), "is in the past", "give a later time, or revoke the key")
    if expires_at > now + MAX_LIFE:
        limit = f"is more than {MAX_LIFE.days} days away"
        _refuse("expires_at", expires_at.isoformat(), limit, "give an earlier time, or null for never")


def _refuse(where: str, value: object, limit: str, fix: str) -> None:
    raise InvalidSettings((Fault("invalid_setting", where, _shown(value), limit, fix),))


def _faults(error: ValidationError) -> tuple[Fault, ...]:
    faults: list[Fault] = []
    places = {found["loc"][:-1] for found in error.errors()}
    for found in error.errors():
        if found["type"] == "too_short" and found["loc"] in places:
            continue  # short only because what is wrong in it does not count
        where = ".".join(str(part) for part in found["loc"]) or "settings"
        cause = found.get("ctx", {}).get("error")
        if isinstance(cause, InvalidLimits):
            # Their places are their names alone.
            faults += [Fault(f.code, f"{where}.{f.where}", f.value, f.limit, f.fix) for f in cause.faults]
        elif found["type"] == "extra_forbidden":
            faults.append(Fault("unknown_setting", where[:80], "no such setting", _nearest(where), "leave it out"))
        elif found["type"] == "missing":
            faults.append(Fault("invalid_setting", where, "nothing", "is needed", "say it"))
        else:
            message = found["msg"].removeprefix("Value error, ")
            fix = "give a value within the limit, or null to say nothing"
            faults.append(
                Fault("invalid_setting", where, _shown(found.get("input")), message[:1].lower() + message[1:], fix)
            )
    return tuple(faults)


def _shown(value: object) -> str:
    # A whole number of thousands of digits is not to be turned into text at all.
    text = "a huge number" if isinstance(value, int) and value.bit_length() > 200 else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _nearest(name: str) -> str:
    known = [*KeySettings.model_fields, EXPIRES_IN]
    found = difflib.get_close_matches(name[:80], known, n=1, cutoff=0.5)
    return f"did you mean {found[0]}?" if found else f"there are {', '.join(known)}"
