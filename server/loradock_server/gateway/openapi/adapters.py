"""What `/admin/adapters` takes and answers: adapters and their versions."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from loradock_adapters import errors as core
from loradock_adapters.adapter_settings import AdapterSettings
from loradock_adapters.registry.states import VersionState
from loradock_server import wire
from loradock_server.gateway import errors
from loradock_server.gateway.admin_adapters import NamedSource
from loradock_server.gateway.openapi.operation import ETAG, JSON, Answer, Operation
from loradock_server.gateway.openapi.operations import ACCEPTED

Target = int | dict[str, int]
"""Where an alias points: a version's number, or weights by version."""


class Signature(BaseModel):
    """Who vouched for these bytes."""

    public_key: str
    signature: str
    signer: str | None = Field(description="the name that this server trusts the key under")


class Version(BaseModel):
    """One version of an adapter. Its bytes never change."""

    object: Literal["adapter.version"]
    id: str = Field(description="name@version", examples=["support@3"])
    name: str
    version: int
    digest: str = Field(description="SHA-256 of the canonical list of files, in hex")
    size_bytes: int = Field(description="on disk")
    rank: int
    target_modules: list[str]
    base_digest: str = Field(description="digest of the base model it was checked against")
    source: str
    created_at: datetime
    created_by: str
    state: VersionState = Field(description="only a ready version answers")
    state_since: datetime
    state_reason: str | None
    aliases: list[str]
    live: bool
    residency: str | None = Field(description="slot or memory; null when it is on disk only")
    tier: str = Field(description="slot (it may run), memory or disk")
    bytes: int = Field(description="in the engine's memory")
    in_flight: int
    last_used: datetime | None
    pinned: bool
    pin_problem: str | None
    signature: Signature | None
    manifest: dict[str, Any] = Field(description="what training recorded")


class Adapter(BaseModel):
    """An adapter with its versions, oldest first; tier, bytes, requests and last use are those of all together."""

    object: Literal["adapter"]
    name: str
    created_at: datetime
    revision: int = Field(description="grows with every change of it; the ETag")
    aliases: dict[str, Target]
    settings: AdapterSettings = Field(description="what was said of it; nothing of what was not")
    versions: list[Version]
    residency: dict[str, str] = Field(description="tier by id of what is in the engine's memory")
    tier: str
    bytes: int
    in_flight: int
    last_used: datetime | None
    pinned: bool
    pinned_at: datetime | None
    pin_problem: str | None


class Memory(BaseModel):
    """What adapters take in the engine, and its limits."""

    bytes: int
    limit_bytes: int
    adapters: int
    limit_adapters: int


class AdapterList(BaseModel):
    """Adapters by name."""

    object: Literal["list"]
    data: list[Adapter]
    has_more: bool
    last_id: str | None = Field(description="give it as `after` for the next page")
    memory: Memory | None


class VersionList(BaseModel):
    """Versions, the newest first."""

    object: Literal["list"]
    data: list[Version]
    has_more: bool
    last_id: int | None = Field(description="give it as `after` for the next page")


class Fault(BaseModel):
    """One thing that is wrong with an adapter."""

    code: str
    where: str
    value: str
    limit: str
    fix: str
    message: str


class Note(BaseModel):
    """One thing worth knowing."""

    code: str
    text: str


class Report(BaseModel):
    """What the check found."""

    ok: bool
    faults: list[Fault]
    warnings: list[str]
    notes: list[Note]
    rank: int
    alpha: float
    target_modules: list[str]
    parameters: int
    size_bytes: int


class Probe(BaseModel):
    """What the smoke probe on the live engine found."""

    result: Literal["passed", "not_probed"]
    reason: str | None = Field(description="why it was not probed")
    effect: float | None = Field(description="the most by which the adapter moved a logprob")


class RegisteredVersion(BaseModel):
    """What became of a registration."""

    object: Literal["adapter.version"]
    id: str
    name: str
    version: int
    digest: str
    created: bool = Field(description="false: these bytes were a version of this name already")
    aliases: list[str]
    report: Report
    probe: Probe


class RetiredVersion(Version):
    """A version out of service."""

    unloaded: bool = Field(description="false: requests that still run on it finish first")


class DeletedVersion(BaseModel):
    """A version that is no more."""

    object: Literal["adapter.version"]
    id: str
    deleted: Literal[True]
    unloaded: bool


class DeletedAdapter(BaseModel):
    """An adapter that is no more, with the numbers of its versions."""

    object: Literal["adapter"]
    name: str
    deleted: Literal[True]
    versions: list[int]
    unloaded: bool


UPLOAD = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "string", "format": "binary"},
            "description": "the files of a PEFT folder under their own names, one part each; or one archive of it",
        }
    },
}

SOURCE_ERRORS = (
    core.SourceInvalid,
    core.SourceForbidden,
    core.SourceMissing,
    core.DigestUnknown,
    core.SourceTooLarge,
    errors.DiskFull,
    core.ArchiveRefused,
    core.SourceUnavailable,
)
"""What can be wrong with where an adapter comes from."""

NAMED = (core.InvalidName, errors.BadRequest)
REGISTRATION_ERRORS = (
    *NAMED,
    errors.NameTaken,
    *SOURCE_ERRORS,
    core.AdapterRejected,
    core.AdapterUnreadable,
    core.AdapterConflict,
    core.GateRefused,
    core.StoreError,
    errors.ProbeFailed,
    errors.EngineUnavailable,
)
"""What a registration can come to, however it was asked for."""

FOUND = (*NAMED, core.AdapterNotFound)

_PATH = "/admin/adapters"
_TAG = "adapters"

OPERATIONS = (
    Operation(
        "GET",
        _PATH,
        "listAdapters",
        "List adapters",
        _TAG,
        "admin",
        {200: Answer(AdapterList, "A page of them, by name.")},
        NAMED,
    ),
    Operation(
        "GET",
        _PATH + "/{name}",
        "getAdapter",
        "Show an adapter with its versions",
        _TAG,
        "admin",
        {200: Answer(Adapter, "The adapter.", headers=(ETAG,))},
        FOUND,
    ),
    Operation(
        "DELETE",
        _PATH + "/{name}",
        "deleteAdapter",
        "Delete an adapter with its versions and aliases",
        _TAG,
        "admin",
        {200: Answer(DeletedAdapter, "It answers 404 from now on; its numbers are never given again.")},
        (*FOUND, core.ChangedMeanwhile),
    ),
    Operation(
        "POST",
        _PATH + "/{name}/versions",
        "createVersion",
        "Register an adapter's files as its next version",
        _TAG,
        "admin",
        {
            201: Answer(RegisteredVersion, "A new version, which answers from now on."),
            200: Answer(RegisteredVersion, "These bytes were a version already."),
            202: ACCEPTED,
        },
        (*NAMED, *REGISTRATION_ERRORS, core.ClaimReused, errors.OperationRuns, errors.OperationLost),
        {"multipart/form-data": UPLOAD, JSON: NamedSource},
    ),
    Operation(
        "GET",
        _PATH + "/{name}/versions",
        "listVersions",
        "List an adapter's versions, the newest first",
        _TAG,
        "admin",
        {200: Answer(VersionList, "A page of them.")},
        FOUND,
    ),
    Operation(
        "GET",
        _PATH + "/{name}/versions/{version}",
        "getVersion",
        "Show a version",
        _TAG,
        "admin",
        {200: Answer(Version, "The version; its ETag is the adapter's.", headers=(ETAG,))},
        (*FOUND, core.VersionNotFound),
    ),
    Operation(
        "GET",
        _PATH + "/{name}/versions/{version}/files",
        "getVersionFiles",
        "A version's files as one tar",
        _TAG,
        "admin",
        {
            200: Answer(
                None,
                "Verified before the first byte.",
                headers=(wire.DIGEST,),
                content={"application/x-tar": {"type": "string", "format": "binary"}},
            )
        },
        (*FOUND, core.VersionNotFound, core.AdapterConflict, core.StoreError),
    ),
    Operation(
        "POST",
        _PATH + "/{name}/versions/{version}/retire",
        "retireVersion",
        "Take a version out of service",
        _TAG,
        "admin",
        {200: Answer(RetiredVersion, "What runs on it finishes; from now on it answers 410 adapter_retired.")},
        (*FOUND, core.VersionNotFound, core.VersionInUse, core.AdapterConflict, core.ChangedMeanwhile),
    ),
    Operation(
        "DELETE",
        _PATH + "/{name}/versions/{version}",
        "deleteVersion",
        "Delete a version that no alias points to",
        _TAG,
        "admin",
        {200: Answer(DeletedVersion, "Its number is never given again; its bytes go with the next gc.")},
        (*FOUND, core.VersionNotFound, core.VersionInUse, core.ChangedMeanwhile),
    ),
    Operation(
        "PUT",
        _PATH + "/{name}/pin",
        "pinAdapter",
        "Keep the live versions in memory",
        _TAG,
        "admin",
        {200: Answer(Adapter, "The adapter, pinned.", headers=(ETAG,))},
        (*FOUND, core.ChangedMeanwhile),
    ),
    Operation(
        "DELETE",
        _PATH + "/{name}/pin",
        "unpinAdapter",
        "Let the adapter leave memory again",
        _TAG,
        "admin",
        {200: Answer(Adapter, "The adapter, not pinned.", headers=(ETAG,))},
        (*FOUND, core.ChangedMeanwhile),
    ),
)
