"""The gateway described as OpenAPI 3.1.

Parameters are read from the routes, which judge by them; everything else stands in a small table per family of
routes. A new family adds its module here. `tests/server/gateway/documented.py` holds every answer of every test against
the document.
"""

from __future__ import annotations

from loradock_server.gateway.openapi import (
    adapters,
    aliases,
    audit,
    evaluations,
    gc,
    health,
    inference,
    keys,
    lora_adapters,
    operations,
    settings,
    stored_responses,
    usage,
)
from loradock_server.gateway.openapi.document import build_document
from loradock_server.gateway.openapi.operation import Operation

OPERATIONS: tuple[Operation, ...] = (
    *inference.OPERATIONS,
    *stored_responses.OPERATIONS,
    *adapters.OPERATIONS,
    *aliases.OPERATIONS,
    *settings.OPERATIONS,
    *evaluations.OPERATIONS,
    *lora_adapters.OPERATIONS,
    *operations.OPERATIONS,
    *audit.OPERATIONS,
    *keys.OPERATIONS,
    *usage.OPERATIONS,
    *gc.OPERATIONS,
    *health.OPERATIONS,
)

__all__ = ["OPERATIONS", "Operation", "build_document"]
