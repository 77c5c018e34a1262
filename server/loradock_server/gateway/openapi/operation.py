"""How one operation is described: who may ask, what it takes, every answer and every error it can give.

Plain values; `document` turns them into OpenAPI. It knows no route and no framework.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from loradock_adapters import errors as core
from loradock_server import wire
from loradock_server.gateway import errors
from loradock_server.gateway.routes import Dialect

Scope = Literal["admin", "infer"]
Errors = tuple[type[BaseException], ...]

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
ETAG = "etag"
LOCATION = "location"
REQUEST_ID = wire.REQUEST_ID
RETRY_AFTER = "retry-after"
AUTHENTICATE = "www-authenticate"
APPLIED = "preference-applied"

RETRY_AFTER_MS = "retry-after-ms"
SHOULD_RETRY = "x-should-retry"

_LIMITED: Mapping[str, str] = {
    "requests": "requests a minute",
    "tokens": "tokens a minute",
    "tokens-day": "tokens a day",
}
_TOLD: Mapping[str, str] = {
    "limit": "The limit of {}: of the key or the adapter, whichever leaves less. Only where there is one.",
    "remaining": "What is left of {}.",
    "reset": "How long until all of {} is there again, as 1s or 6m0s.",
}
LIMITS: Mapping[str, str] = {
    f"x-ratelimit-{part}-{kind}": says.format(of) for kind, of in _LIMITED.items() for part, says in _TOLD.items()
}
_ANTHROPICS_TOLD: Mapping[str, str] = {
    "limit": "The limit of {}: of the key or the adapter, by the minute or of the day, whichever leaves least.",
    "remaining": "What is left of {}.",
    "reset": "When all of {} is there again (RFC 3339).",
}
ANTHROPICS_LIMITS: Mapping[str, str] = {
    f"anthropic-ratelimit-{kind}-{part}": says.format(kind)
    for kind in ("requests", "tokens")
    for part, says in _ANTHROPICS_TOLD.items()
}

HEADERS: Mapping[str, str] = {
    REQUEST_ID: "The client's own x-request-id if it sent a usable one, else a new one. Quote it to an operator.",
    ETAG: "The revision at which the thing last changed, quoted; send it back in If-Match.",
    LOCATION: "Where the new thing is.",
    RETRY_AFTER: "Seconds after which to try again.",
    RETRY_AFTER_MS: "The same in milliseconds, for a limit of the key or the adapter.",
    SHOULD_RETRY: "false, where a client had better not wait by itself.",
    **LIMITS,
    **ANTHROPICS_LIMITS,
    AUTHENTICATE: "How to send a key.",
    APPLIED: "The preference that was heeded: respond-async.",
    wire.ADAPTER: "The adapter version that answered, name@version. Not sent by the base model.",
    wire.DIGEST: "SHA-256 of that version's files.",
}


def limits_told(dialect: Dialect) -> tuple[str, ...]:
    """The headers by which an inference route tells of limits, where there are any."""
    return (*LIMITS, *(ANTHROPICS_LIMITS if dialect == "anthropic" else ()))


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer: a JSON object of this shape, or another content by media type and schema.

    `sometimes` are headers that not every such answer has.
    """

    shape: type[BaseModel] | None
    says: str
    headers: tuple[str, ...] = ()
    sometimes: tuple[str, ...] = ()
    content: Mapping[str, Mapping[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. `path` is as the route has it.

    `takes`: schemas or shapes of the body by media type; empty for none. `raises`: beyond what every operation with
    this `scope` can answer. `dialect`: whose API its errors have the shape of. `observed`: it has a request id, and a
    gateway that drains turns it away.
    """

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    id: str
    summary: str
    tag: str
    scope: Scope | None
    answers: Mapping[int, Answer]
    raises: Errors = ()
    takes: Mapping[str, type[BaseModel] | Mapping[str, Any]] | None = None
    body_required: bool = True
    description: str = ""
    passes_engine_errors: bool = False
    dialect: Dialect = "openai"
    observed: bool = True

    @property
    def errors(self) -> Errors:
        """The classes of every error it can answer with."""
        found: list[type[BaseException]] = [*self.raises]
        if self.observed:
            found += [errors.ShuttingDown, Exception]
        if self.scope is not None:
            found += [errors.InvalidKey, errors.SignersUnavailable, errors.MissingScope, core.RegistryError]
        if self.takes:
            found += [errors.BadRequest, errors.ClientTooSlow, errors.TooLarge, errors.WrongMediaType]
        return tuple(dict.fromkeys(found))


def json_of(shape: type[BaseModel] | Mapping[str, Any]) -> Mapping[str, type[BaseModel] | Mapping[str, Any]]:
    """A body in JSON."""
    return {JSON: shape}
