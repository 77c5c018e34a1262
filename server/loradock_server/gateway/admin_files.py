"""`GET /admin/adapters/{name}/versions/{version}/files`: a version's files as one tar stream, for `adapters pull`.

Its bytes are verified before the first one is sent. It knows no format of what is inside.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from fastapi import APIRouter, Depends
from starlette.responses import StreamingResponse

from loradock_adapters.errors import AdapterConflict
from loradock_adapters.folder_tar import FolderTar
from loradock_adapters.names import AdapterRef
from loradock_adapters.registry import VersionState
from loradock_server import wire
from loradock_server.gateway.admin_adapters import require_version
from loradock_server.gateway.params import AdapterName, VersionNumber
from loradock_server.gateway.services import Services

# Of the others the bytes may be missing or wrong, and the state says so.
_WHOLE = frozenset({VersionState.VERIFIED, VersionState.READY, VersionState.RETIRED})


def build_router(services: Services) -> APIRouter:
    """The route, on these services."""
    router = APIRouter(prefix="/admin/adapters", dependencies=[Depends(services.admin)])

    @router.get("/{name}/versions/{version}/files", response_class=StreamingResponse)
    async def pull_files(name: AdapterName, version: VersionNumber) -> StreamingResponse:
        await services.table.refresh()
        record = require_version(services, AdapterRef(name, version))
        if record.state not in _WHOLE:
            raise AdapterConflict(f"{record.ref} is {record.state}; only a version that was ready can be pulled")
        tar = await asyncio.to_thread(_open, services, record.digest)
        headers = {
            "content-length": str(tar.size_bytes),
            "content-disposition": f'attachment; filename="{record.ref}.tar"',
            wire.DIGEST: record.digest,
        }
        return StreamingResponse(_stream(tar), media_type="application/x-tar", headers=headers)

    return router


def _open(services: Services, digest: str) -> FolderTar:
    return FolderTar.open(services.store.fetch(digest))


async def _stream(tar: FolderTar) -> AsyncIterator[bytes]:
    chunks = tar.chunks()
    try:
        while chunk := await asyncio.to_thread(next, chunks, b""):
            yield chunk
    finally:
        tar.close()
