"""Responses that were answered before, of which there are none."""

from __future__ import annotations

from loradock_server.gateway import errors
from loradock_server.gateway.openapi.operation import Operation

_PATH = "/v1/responses/{response_id}"
_SAYS = "Always 404: this server keeps no responses."
_RAISES = (errors.NotKept,)

OPERATIONS = (
    Operation("GET", _PATH, "getResponse", _SAYS, "inference", "infer", {}, _RAISES),
    Operation("DELETE", _PATH, "deleteResponse", _SAYS, "inference", "infer", {}, _RAISES),
    Operation("POST", f"{_PATH}/cancel", "cancelResponse", _SAYS, "inference", "infer", {}, _RAISES),
    Operation("GET", f"{_PATH}/input_items", "listInputItems", _SAYS, "inference", "infer", {}, _RAISES),
)
