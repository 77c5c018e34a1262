"""What `/admin/adapters/{name}/aliases` takes and answers."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from loradock_adapters import errors as core
from loradock_adapters.registry.splits import MAX_VERSIONS, MAX_WEIGHT
from loradock_server.gateway.openapi.adapters import FOUND, Target
from loradock_server.gateway.openapi.operation import ETAG, JSON, Answer, Operation


class Alias(BaseModel):
    """Where a name leads: to one version, or by weight to several."""

    object: Literal["adapter.alias"]
    name: str
    alias: str
    version: int | None = Field(description="null when traffic is split")
    split: dict[str, int] | None = Field(description="weights by version; null when there is one version")
    previous: Target | None = Field(description="where a rollback leads")
    revision: int = Field(description="the ETag")
    changed_at: datetime
    changed_by: str


class AliasList(BaseModel):
    """Aliases by name."""

    object: Literal["list"]
    data: list[Alias]
    has_more: bool
    last_id: str | None = Field(description="give it as `after` for the next page")


class DeletedAlias(BaseModel):
    """An alias that is no more."""

    object: Literal["adapter.alias"]
    name: str
    alias: str
    deleted: Literal[True]


_FORCE = {
    "type": ["string", "null"],
    "minLength": 1,
    "maxLength": 500,
    "description": "why the promotion gate is not to count; stands in the audit",
}
TARGET = {
    "oneOf": [
        {
            "type": "object",
            "required": ["version"],
            "properties": {"version": {"type": "integer", "minimum": 1, "maximum": 999_999_999}, "force": _FORCE},
            "additionalProperties": False,
        },
        {
            "type": "object",
            "required": ["split"],
            "properties": {
                "split": {
                    "type": "object",
                    "minProperties": 1,
                    "maxProperties": MAX_VERSIONS,
                    "propertyNames": {"pattern": "^[1-9][0-9]{0,8}$"},
                    "additionalProperties": {"type": "integer", "minimum": 1, "maximum": MAX_WEIGHT},
                },
                "force": _FORCE,
            },
            "additionalProperties": False,
        },
    ],
    "examples": [{"version": 3}, {"split": {"3": 90, "4": 10}}],
}

_PATH = "/admin/adapters/{name}/aliases"
_TAG = "aliases"

OPERATIONS = (
    Operation(
        "GET",
        _PATH,
        "listAliases",
        "List an adapter's aliases",
        _TAG,
        "admin",
        {200: Answer(AliasList, "A page of them, by name.")},
        FOUND,
    ),
    Operation(
        "GET",
        _PATH + "/{alias}",
        "getAlias",
        "Show where an alias points",
        _TAG,
        "admin",
        {200: Answer(Alias, "The alias.", headers=(ETAG,))},
        (*FOUND, core.AliasNotFound),
    ),
    Operation(
        "PUT",
        _PATH + "/{alias}",
        "setAlias",
        "Point an alias to a version, or split it",
        _TAG,
        "admin",
        {200: Answer(Alias, "In force with the next request.", headers=(ETAG,))},
        (
            *FOUND,
            core.AliasNotFound,
            core.VersionNotFound,
            core.InvalidSplit,
            core.AdapterConflict,
            core.GateRefused,
            core.ChangedMeanwhile,
        ),
        {JSON: TARGET},
    ),
    Operation(
        "POST",
        _PATH + "/{alias}/rollback",
        "rollBackAlias",
        "Point an alias to where it pointed before",
        _TAG,
        "admin",
        {200: Answer(Alias, "In force with the next request.", headers=(ETAG,))},
        (*FOUND, core.AliasNotFound, core.VersionNotFound, core.AdapterConflict, core.ChangedMeanwhile),
    ),
    Operation(
        "DELETE",
        _PATH + "/{alias}",
        "deleteAlias",
        "Forget an alias",
        _TAG,
        "admin",
        {200: Answer(DeletedAlias, "Who asks for it is answered 404.")},
        (*FOUND, core.AliasNotFound, core.ChangedMeanwhile),
    ),
)
