"""From tables and routes to one OpenAPI document. It knows no operation by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema
from starlette.routing import BaseRoute

from loradock_server import __version__, wire
from loradock_server.gateway.errors import TABLE, Rule
from loradock_server.gateway.openapi.adapters import Fault
from loradock_server.gateway.openapi.operation import (
    AUTHENTICATE,
    ETAG,
    HEADERS,
    JSON,
    REQUEST_ID,
    RETRY_AFTER,
    RETRY_AFTER_MS,
    SHOULD_RETRY,
    Answer,
    Operation,
    limits_told,
)
from loradock_server.gateway.routes import Dialect

_ABOUT = """OpenAI's API for inference, and the administration of adapters.

Every error has OpenAI's shape, that of `/v1/messages` Anthropic's; its message carries the value, the limit and the
fix. Every answer but those of `/healthz`, `/readyz` and `/metrics` has an `x-request-id`; every 429 and 503 has
`Retry-After`. A path that does not
exist is 404 `route_not_found`, a method that a path does not take 405 `method_not_allowed`.
"""
Refs = Mapping[Any, Mapping[str, Any]]

_REF = "#/components/schemas/{model}"
# FastAPI's own errors, which nobody gets to see.
_NOT_OURS = ("HTTPValidationError", "ValidationError")


class OverLimit(BaseModel):
    """The limit that is in the way."""

    of: Literal["key", "adapter"]
    limit: Literal["requests_per_minute", "tokens_per_minute", "max_concurrency", "tokens_per_day"]
    value: int
    used: int
    asked: int = Field(description="what this request would take: 1, or its tokens as estimated")
    wait_seconds: float


class Objection(BaseModel):
    """One rule of the promotion gate that a version breaks."""

    version: str
    rule: Literal["required", "threshold", "no_worse_by"]
    metric: str
    task: str | None
    value: float | None = Field(description="what the version has")
    limit: float | None = Field(description="what it would need")
    live: str | None = Field(description="the version it is compared with")
    live_value: float | None
    text: str


class ErrorDetail(BaseModel):
    """Why, for people and for programs."""

    message: str
    type: str = Field(
        description="invalid_request_error, server_error, rate_limit_error, or insufficient_quota for a day's tokens"
    )
    param: str | None = Field(description="the field at fault")
    code: str | None
    faults: list[Fault] | None = Field(default=None, description="of adapter_rejected: everything that is wrong")
    gate: list[Objection] | None = Field(default=None, description="of promotion_refused: what speaks against it")
    limit: OverLimit | None = Field(default=None, description="of a 429 by a limit of the key or the adapter")
    expected: list[int] | None = Field(default=None, description="of precondition_failed: what If-Match demanded")
    current: dict[str, Any] | None = Field(default=None, description="of precondition_failed: what is there now")


class Error(BaseModel):
    """Every error, in OpenAI's shape."""

    error: ErrorDetail


class MessagesErrorDetail(BaseModel):
    """Why, as Anthropic's API says it; `code` and `param` are ours."""

    type: str
    message: str
    code: str | None
    param: str | None


class MessagesError(BaseModel):
    """Every error of `/v1/messages`, in the shape of Anthropic's API."""

    type: Literal["error"]
    error: MessagesErrorDetail


_ERRORS: Mapping[Dialect, type[BaseModel]] = {"openai": Error, "responses": Error, "anthropic": MessagesError}


def build_document(operations: Sequence[Operation], routes: Sequence[BaseRoute]) -> dict[str, Any]:
    """The document of these operations, with the parameters that these routes judge by."""
    read = get_openapi(title="LoRADock", version=__version__, description=_ABOUT, routes=routes)
    refs, components = _schemas(operations)
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    for operation in operations:
        judged = read["paths"].get(operation.path, {}).get(operation.method.lower(), {})
        paths[operation.path][operation.method.lower()] = _operation(operation, judged, refs)
    known = read.get("components", {}).get("schemas", {})
    return {
        **{key: read[key] for key in ("openapi", "info")},
        "paths": dict(paths),
        "components": {
            "schemas": {**{k: v for k, v in known.items() if k not in _NOT_OURS}, **components},
            "headers": {name: _header(says) for name, says in HEADERS.items()},
            "parameters": {REQUEST_ID: _request_id()},
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key with the scope that is named (loradock keys create), or a token (JWT) "
                    "of the issuer whose tokens the operator takes. With LORADOCK_OPEN_INFERENCE inference needs none.",
                }
            },
        },
    }


def _operation(operation: Operation, judged: Mapping[str, Any], refs: Refs) -> dict[str, Any]:
    parameters = [*judged.get("parameters", [])]
    if operation.observed:
        parameters.append({"$ref": f"#/components/parameters/{REQUEST_ID}"})
    made: dict[str, Any] = {
        "operationId": operation.id,
        "summary": operation.summary,
        "tags": [operation.tag],
        "security": [] if operation.scope is None else [{"key": [operation.scope]}],
        "responses": {
            **{str(status): _answer(answer, operation, refs) for status, answer in operation.answers.items()},
            **_errors(operation),
        },
    }
    if operation.description:
        made["description"] = operation.description
    if parameters:
        made["parameters"] = parameters
    if operation.takes:
        content = {kind: {"schema": _schema(shape, refs, "validation")} for kind, shape in operation.takes.items()}
        made["requestBody"] = {"required": operation.body_required, "content": content}
    elif "requestBody" in judged:
        made["requestBody"] = judged["requestBody"]
    return made


def _answer(answer: Answer, operation: Operation, refs: Refs) -> dict[str, Any]:
    content = {} if answer.shape is None else {JSON: {"schema": _schema(answer.shape, refs, "serialization")}}
    content |= {kind: {"schema": dict(schema)} for kind, schema in (answer.content or {}).items()}
    named = [REQUEST_ID, *answer.headers] if operation.observed else [*answer.headers]
    return {"description": answer.says, "headers": _headers(named, answer.sometimes), "content": content}


def _errors(operation: Operation) -> dict[str, Any]:
    """One response for each status, which names the codes that it can have."""
    by_status: dict[int, list[Rule]] = defaultdict(list)
    for kind in operation.errors:
        rule = _rule(kind)
        if rule not in by_status[rule.status]:
            by_status[rule.status].append(rule)
    responses = {
        str(status): _error(
            status, rules, open=operation.passes_engine_errors, observed=operation.observed, dialect=operation.dialect
        )
        for status, rules in sorted(by_status.items())
        if status not in operation.answers
    }
    if operation.passes_engine_errors:
        responses.setdefault("429", _error(429, [], open=True, dialect=operation.dialect))
        responses["4XX"] = _error(400, [], open=True, dialect=operation.dialect)
        responses["5XX"] = _error(500, [], open=True, dialect=operation.dialect)
    return responses


def _rule(kind: type[BaseException]) -> Rule:
    return next(TABLE[cls] for cls in kind.__mro__ if cls in TABLE)


def _error(
    status: int, rules: Sequence[Rule], *, open: bool, observed: bool = True, dialect: Dialect = "openai"
) -> dict[str, Any]:
    codes = [rule.code for rule in rules]
    says = ", ".join(f"`{code}`" if code else "no code: the message says what is wrong" for code in codes)
    schema: dict[str, Any] = {"$ref": _REF.format(model=_ERRORS[dialect].__name__)}
    if open:
        says = "; ".join(filter(None, (says, "the engine's own errors")))
    else:
        narrowed = {"properties": {"error": {"properties": {"code": {"enum": codes}}}}}
        schema = {"allOf": [schema, narrowed]}
    named = [REQUEST_ID] if observed else []
    named += [RETRY_AFTER] if status in (429, 503) else []
    named += [AUTHENTICATE] if status == 401 else []
    # A 412 for something that is gone has no revision to name.
    sometimes = [ETAG] if status == 412 else []
    sometimes += [wire.ADAPTER, wire.DIGEST, *limits_told(dialect)] if open else []
    sometimes += [RETRY_AFTER_MS, SHOULD_RETRY] if open and status == 429 else []
    return {"description": says, "headers": _headers(named, sometimes), "content": {JSON: {"schema": schema}}}


def _schemas(operations: Iterable[Operation]) -> tuple[Refs, Mapping[str, Any]]:
    """References by (shape, mode), and the components they lead to."""
    refs, made = models_json_schema([*dict.fromkeys(_shapes(operations))], ref_template=_REF)
    return refs, made["$defs"]


def _shapes(operations: Iterable[Operation]) -> Iterator[tuple[type[BaseModel], Any]]:
    yield from ((error, "serialization") for error in _ERRORS.values())
    for operation in operations:
        yield from ((a.shape, "serialization") for a in operation.answers.values() if a.shape is not None)
        yield from ((shape, "validation") for shape in (operation.takes or {}).values() if isinstance(shape, type))


def _schema(shape: type[BaseModel] | Mapping[str, Any], refs: Refs, mode: str) -> dict[str, Any]:
    return dict(refs[shape, mode] if isinstance(shape, type) else shape)


def _headers(named: Iterable[str], sometimes: Iterable[str]) -> dict[str, Any]:
    # Written out: `required` cannot stand beside a reference.
    return {
        **{name: {**_header(HEADERS[name]), "required": True} for name in named},
        **{name: {"$ref": f"#/components/headers/{name}"} for name in sometimes},
    }


def _header(says: str) -> dict[str, Any]:
    return {"description": says, "schema": {"type": "string"}}


def _request_id() -> dict[str, Any]:
    return {
        "name": REQUEST_ID,
        "in": "header",
        "required": False,
        "description": "Yours, to find the request again: 1 to 128 of A-Z a-z 0-9 . _ : / + = -. Another is replaced.",
        "schema": {"type": "string"},
    }
