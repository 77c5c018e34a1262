"""What `/admin/keys` takes and answers."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from loradock_adapters import errors as core
from loradock_server.gateway import errors
from loradock_server.gateway.admin_keys import NewKey
from loradock_server.gateway.openapi.operation import ETAG, JSON, Answer, Operation


class Key(BaseModel):
    """An API key without its secret."""

    object: Literal["key"]
    id: str
    name: str
    scopes: list[Literal["admin", "inference"]]
    prefix: str = Field(description="how the secret begins")
    created_at: datetime
    revoked_at: datetime | None


class CreatedKey(Key):
    """A new key with its secret, which is shown this once."""

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


_PATH = "/admin/keys"
_TAG = "keys"

OPERATIONS = (
    Operation(
        "GET",
        _PATH,
        "listKeys",
        "List keys",
        _TAG,
        "admin",
        {200: Answer(KeyList, "A page of them, revoked ones too.")},
        (errors.BadRequest, core.KeyNotFound),
    ),
    Operation(
        "GET",
        _PATH + "/{key_id}",
        "getKey",
        "Show a key without its secret",
        _TAG,
        "admin",
        {200: Answer(Key, "The key.", headers=(ETAG,))},
        (errors.BadRequest, core.KeyNotFound),
    ),
    Operation(
        "POST",
        _PATH,
        "createKey",
        "Make a key",
        _TAG,
        "admin",
        {201: Answer(CreatedKey, "The secret cannot be read again.")},
        (),
        {JSON: NewKey},
    ),
    Operation(
        "DELETE",
        _PATH + "/{key_id}",
        "revokeKey",
        "Revoke a key for good",
        _TAG,
        "admin",
        {200: Answer(RevokedKey, "It opens nothing from now on.")},
        (errors.BadRequest, core.KeyNotFound, errors.Conflict, core.ChangedMeanwhile),
    ),
)
