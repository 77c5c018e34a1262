"""What `POST /admin/adapters` and `PATCH /admin/adapters/{name}` take: an adapter's settings."""

from __future__ import annotations

from typing import Any, get_args

from loradock_adapters import errors as core
from loradock_adapters.adapter_settings import PIN, AdapterSettings, Priority
from loradock_server.gateway import errors
from loradock_server.gateway.openapi.adapters import FOUND, NAMED, Adapter
from loradock_server.gateway.openapi.operation import ETAG, JSON, LOCATION, MERGE_PATCH, Answer, Operation
from loradock_server.gateway.params import NAME_SCHEMA

_NO_NUL = {"pattern": r"^[^\x00]*$"}


def _storable(schema: Any) -> Any:
    """The same, with what `AdapterSettings` demands of each text beyond its length."""
    if isinstance(schema, list):
        return [_storable(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _storable(part) for name, part in schema.items()}
    return found | _NO_NUL if found.get("type") == "string" and "enum" not in found else found


_SETTINGS = _storable(AdapterSettings.model_json_schema()["properties"])
_PATCH: dict[str, Any] = {
    "type": "object",
    "description": "A JSON merge patch (RFC 7396): null takes a setting back, what is left out stays.",
    "properties": {
        **_SETTINGS,
        "priority": {**_SETTINGS["priority"], "enum": [*get_args(Priority), None], "type": ["string", "null"]},
        PIN: {"type": "boolean", "description": "keep the live versions in memory"},
    },
    "additionalProperties": False,
    "examples": [{"temperature": 0.2, "owner": None}],
}

_NEW: dict[str, Any] = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": NAME_SCHEMA,
        **{name: schema for name, schema in _PATCH["properties"].items() if name != PIN},
    },
    "additionalProperties": False,
    "examples": [{"name": "support", "description": "answers tickets", "owner": "me"}],
}

OPERATIONS = (
    Operation(
        "POST",
        "/admin/adapters",
        "createAdapter",
        "Take a name, before there is a version",
        "adapters",
        "admin",
        {201: Answer(Adapter, "The adapter, without a version.", headers=(ETAG, LOCATION))},
        (*NAMED, errors.NameTaken, core.AdapterExists, core.InvalidSettings),
        {JSON: _NEW},
    ),
    Operation(
        "PATCH",
        "/admin/adapters/{name}",
        "changeAdapter",
        "Change an adapter's settings",
        "adapters",
        "admin",
        {200: Answer(Adapter, "In force with the next request.", headers=(ETAG,))},
        (*FOUND, core.InvalidSettings, core.ChangedMeanwhile),
        {MERGE_PATCH: _PATCH, JSON: _PATCH},
    ),
)
