"""`/admin/adapters/{name}/versions/{version}/evaluations`: how a version did, for people and for the promotion gate.

An evaluation that names bytes or a base model must name this version's. It judges no number; the gate does.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from starlette.requests import Request

from loradock_adapters.digest import folder_digest
from loradock_adapters.evaluation import MAX_BYTES, Evaluation
from loradock_adapters.names import AdapterRef
from loradock_adapters.peft_folder import REQUIRED_FILES
from loradock_adapters.registry import VersionRecord
from loradock_adapters.registry.audit import MAX_ID
from loradock_server.gateway.admin_adapters import require_version
from loradock_server.gateway.errors import Conflict
from loradock_server.gateway.json_body import json_object
from loradock_server.gateway.pages import AFTER, page_view
from loradock_server.gateway.params import AdapterName, VersionNumber
from loradock_server.gateway.services import Services
from loradock_server.gateway.views import evaluation_view

Number = Annotated[int, Path(ge=1, le=MAX_ID, description="The evaluation's id.")]


def build_router(services: Services) -> APIRouter:
    """The routes, on these services."""
    router = APIRouter(
        prefix="/admin/adapters/{name}/versions/{version}/evaluations", dependencies=[Depends(services.admin)]
    )
    evaluations = services.registry.evaluations

    @router.post("", status_code=201)
    async def attach_evaluation(name: AdapterName, version: VersionNumber, request: Request) -> dict[str, Any]:
        ref = AdapterRef(name, version)
        evaluation = Evaluation.read(await json_object(request, 2 * MAX_BYTES))
        await services.table.refresh()
        await asyncio.to_thread(_require_same, services, require_version(services, ref), evaluation)
        record = await asyncio.to_thread(evaluations.attach, ref, evaluation, by=services.actor(request))
        return evaluation_view(record)

    @router.get("")
    async def list_evaluations(
        name: AdapterName,
        version: VersionNumber,
        limit: Annotated[int, Query(ge=1, le=99, description="How many at most.")] = 50,
        after: Annotated[int | None, Query(ge=1, le=MAX_ID, description=AFTER)] = None,
    ) -> dict[str, Any]:
        ref = AdapterRef(name, version)
        found = await asyncio.to_thread(evaluations.page, ref, before_id=after, limit=limit + 1)
        return page_view(found, limit, evaluation_view, lambda record: record.id)

    @router.get("/{number}")
    async def show_evaluation(name: AdapterName, version: VersionNumber, number: Number) -> dict[str, Any]:
        record = await asyncio.to_thread(evaluations.get, AdapterRef(name, version), number)
        return {**evaluation_view(record), "document": dict(record.evaluation.document)}

    return router


def _require_same(services: Services, record: VersionRecord, evaluation: Evaluation) -> None:
    """Reads the version's bytes where the evaluation says which it measured. Blocks. Raises Conflict, StoreError."""
    if evaluation.base_digest not in (None, record.base_digest):
        raise Conflict(
            f"the evaluation was made on another base model ({evaluation.base_digest}) than {record.ref} is for "
            f"({record.base_digest}); evaluate it on that one"
        )
    if evaluation.adapter_digest in (None, record.digest):
        return
    # The training manifest names the two files that PEFT writes, without manifest and README.
    weights = folder_digest(services.store.fetch(record.digest), REQUIRED_FILES)
    if evaluation.adapter_digest != weights:
        raise Conflict(
            f"the evaluation is of other bytes ({evaluation.adapter_digest}) than {record.ref} has ({weights}); "
            "attach it to the version that it measured"
        )
