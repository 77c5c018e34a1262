"""What `/admin/keys` takes and answers."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field, TypeAdapter

from loradock_adapters import errors as core
from loradock_adapters.key_settings import EXPIRES_IN, MAX_LIFE, KeySettings
from loradock_adapters.key_settings import Limits as LimitsSchema
from loradock_server.gateway import errors
from loradock_server.gateway.admin_keys import Rotation
from loradock_server.gateway.openapi.operation import ETAG, JSON, MERGE_PATCH, Answer, Operation

_NULL = {"type": "null"}
_WORDS = r"^[^\x00-\x1f\x7f]*$"


class Limits(BaseModel):
    """How much it may ask for; a limit that is not there is none."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrency: int | None = None
    tokens_per_day: int | None = None


class Key(BaseModel):
    """An API key without its secret."""

    object: Literal["key"]
    id: str
    name: str
    scopes: list[Literal["admin", "infer"]]
    tenant: str | None = Field(description="keys of one tenant share its prefix cache")
    adapters: list[str] | None = Field(description="patterns of the names it may ask for; null: every one")
    limits: Limits
    prefix: str = Field(description="how the secret begins")
    revision: int
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="within half a minute or so")
    old_secret_until: datetime | None = Field(description="until when a secret from before a rotation is good")


class KeyWithSecret(Key):
    """A key with its new secret, which is shown this once."""

    secret: str


class RevokedKey(Key):
    """A key that opens nothing any more."""

    revoked: Literal[True]


class KeyList(BaseModel):
    """Keys, oldest first."""

    object: Literal["list"]
    data: list[Key]
    has_more: bool
    last_id: str | None = Field(description="give it as `after` for the next page")


def _properties() -> dict[str, Any]:
    found: dict[str, Any] = KeySettings.model_json_schema()["properties"]
    found["name"] = {**found["name"], "pattern": _WORDS}
    found["scopes"] = {"anyOf": [found["scopes"], _NULL]}
    found["limits"] = {"anyOf": [TypeAdapter(LimitsSchema).json_schema(), _NULL]}
    found[EXPIRES_IN] = {
        "type": ["integer", "null"],
        "minimum": 1,
        "maximum": int(MAX_LIFE.total_seconds()),
        "description": "seconds from now, instead of expires_at",
    }
    return found


_SAID = _properties()
_NEW: dict[str, Any] = {
    "type": "object",
    "required": ["name"],
    "properties": _SAID,
    "additionalProperties": False,
    "examples": [{"name": "my-app", "adapters": ["support-*"], "limits": {"requests_per_minute": 60}}],
}
_PATCH: dict[str, Any] = {
    "type": "object",
    "description": "A JSON merge patch (RFC 7396): null takes something back, what is left out stays.",
    "properties": _SAID,
    "additionalProperties": False,
    "examples": [{"expires_in": 2592000, "tenant": None}],
}

_PATH = "/admin/keys"
_TAG = "keys"
_FOUND = (errors.BadRequest, core.KeyNotFound)

OPERATIONS = (
    Operation(
        "GET",
        _PATH,
        "listKeys",
        "List keys",
        _TAG,
        "admin",
        {200: Answer(KeyList, "A page of them, revoked ones too.")},
        _FOUND,
    ),
    Operation(
        "GET",
        _PATH + "/{key_id}",
        "getKey",
        "Show a key without its secret",
        _TAG,
        "admin",
        {200: Answer(Key, "The key.", headers=(ETAG,))},
        _FOUND,
    ),
    Operation(
        "POST",
        _PATH,
        "createKey",
        "Make a key",
        _TAG,
        "admin",
        {201: Answer(KeyWithSecret, "The secret cannot be read again.", headers=(ETAG,))},
        (core.InvalidSettings,),
        {JSON: _NEW},
    ),
    Operation(
        "PATCH",
        _PATH + "/{key_id}",
        "changeKey",
        "Change a key",
        _TAG,
        "admin",
        {200: Answer(Key, "In force with the next request.", headers=(ETAG,))},
        (*_FOUND, core.InvalidSettings, core.KeyConflict, core.ChangedMeanwhile),
        {MERGE_PATCH: _PATCH, JSON: _PATCH},
    ),
    Operation(
        "POST",
        _PATH + "/{key_id}/rotate",
        "rotateKey",
        "Give a key a new secret",
        _TAG,
        "admin",
        {200: Answer(KeyWithSecret, "The secret cannot be read again.", headers=(ETAG,))},
        (*_FOUND, core.KeyConflict, core.ChangedMeanwhile),
        {JSON: Rotation},
        body_required=False,
    ),
    Operation(
        "DELETE",
        _PATH + "/{key_id}",
        "revokeKey",
        "Revoke a key for good",
        _TAG,
        "admin",
        {200: Answer(RevokedKey, "It opens nothing from now on.")},
        (*_FOUND, core.KeyConflict, core.ChangedMeanwhile),
    ),
)
