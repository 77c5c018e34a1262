"""What vLLM's two routes take and answer here."""

from __future__ import annotations

from loradock_adapters import errors as core
from loradock_server import wire
from loradock_server.gateway import errors
from loradock_server.gateway.lora_adapters import LoadLoraAdapter, UnloadLoraAdapter
from loradock_server.gateway.openapi.adapters import REGISTRATION_ERRORS
from loradock_server.gateway.openapi.operation import JSON, Answer, Operation

_TAG = "adapters"
_SAYS = {"text/plain": {"type": "string"}}

OPERATIONS = (
    Operation(
        "POST",
        "/v1/load_lora_adapter",
        "loadLoraAdapter",
        "Register an adapter and make it live, by vLLM's body",
        _TAG,
        "admin",
        {200: Answer(None, "It answers from now on.", headers=(wire.ADAPTER, wire.DIGEST), content=_SAYS)},
        REGISTRATION_ERRORS,
        {JSON: LoadLoraAdapter},
    ),
    Operation(
        "POST",
        "/v1/unload_lora_adapter",
        "unloadLoraAdapter",
        "Let a name answer no more, by vLLM's body",
        _TAG,
        "admin",
        {200: Answer(None, "Its versions stay and can be promoted again.", content=_SAYS)},
        (errors.BadRequest, core.InvalidName, core.AdapterNotFound, core.AliasNotFound),
        {JSON: UnloadLoraAdapter},
    ),
)
