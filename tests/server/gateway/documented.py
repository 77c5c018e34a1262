"""HTTP clients that hold every answer they receive against the gateway's own OpenAPI document.

An answer fails the test when its status, content type, headers or body is not what the document says of that operation.
Objects may have no field that is not described, except where the document says that they are open; so whoever adds a
field or a route describes it. Of a stream only the beginning is judged: its events are the engine's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Protocol

import httpx
import jsonschema_rs
from openai import DefaultHttpxClient

# What a client may rely on. Others (date, content-length, …) are HTTP's.
_TOLD = re.compile(r"x-.*|anthropic-.*|etag|location|preference-applied|retry-after|www-authenticate")
_UNOBSERVED = frozenset({"/healthz", "/readyz", "/metrics"})
_TRANSPORT = frozenset({"x-accel-buffering"})


class Undocumented(AssertionError):
    """An answer that the document does not foresee."""


class Answered(Protocol):
    """What httpx and the OpenAI SDK's own client both give."""

    @property
    def status_code(self) -> int: ...
    @property
    def headers(self) -> Any: ...
    @property
    def content(self) -> bytes: ...


class Document:
    """The document, ready to judge answers."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._paths = [(_pattern(path), operations) for path, operations in document["paths"].items()]
        self._components = _closed(document["components"])
        self._validators: dict[str, Any] = {}

    def judge(self, method: str, path: str, answer: Answered, *, streamed: bool) -> None:
        """Raises Undocumented unless the document foresees this answer."""
        where = f"{method} {path} → {answer.status_code}"
        headers = {name.lower(): value for name, value in answer.headers.items()}
        response = self._response(method, path, answer.status_code)
        if response is None:
            raise Undocumented(f"{where} is not described")
        _judge_headers(where, headers, response.get("headers", {}))
        kind = headers.get("content-type", "").partition(";")[0]
        content = response["content"].get(kind)
        if content is None:
            raise Undocumented(f"{where}: content type {kind!r}, described are {sorted(response['content'])}")
        if kind == "application/json" and not streamed:
            fault = next(self._validator(content["schema"]).iter_errors(json.loads(answer.content)), None)
            if fault is not None:
                raise Undocumented(f"{where}: {fault.message} at {fault.instance_path}, schema {fault.schema_path}")

    def _response(self, method: str, path: str, status: int) -> Mapping[str, Any] | None:
        there = [operations for pattern, operations in self._paths if pattern.fullmatch(path)]
        for operations in there:
            if method.lower() in operations:
                responses = operations[method.lower()]["responses"]
                found: Mapping[str, Any] | None = responses.get(str(status), responses.get(f"{status // 100}XX"))
                return found
        # No operation: then it must be the error that the document's introduction names.
        stray = (
            {404: "route_not_found", 405: "method_not_allowed"}.get(status)
            if status == (405 if there else 404)
            else None
        )
        return None if stray is None else _stray(stray, observed=path not in _UNOBSERVED)

    def _validator(self, schema: Mapping[str, Any]) -> Any:
        key = json.dumps(schema)
        if key not in self._validators:
            whole = {**_closed(schema), "components": self._components}
            self._validators[key] = jsonschema_rs.Draft202012Validator(whole, validate_formats=True)
        return self._validators[key]


class DocumentedClient(httpx.Client):
    """For the gateway that `base_url` names."""

    def send(self, request: httpx.Request, *, stream: bool = False, **options: Any) -> httpx.Response:
        response = super().send(request, stream=stream, **options)
        _judge(str(request.url.copy_with(raw_path=b"/")), request.method, request.url.path, response, stream)
        return response


class DocumentedOpenAIClient(DefaultHttpxClient):
    """The same for the OpenAI SDK."""

    def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
        response = super().send(request, stream=stream, **options)
        _judge(str(request.url.copy_with(raw_path=b"/")), request.method, request.url.path, response, stream)
        return response


def _judge(base: str, method: str, path: str, answer: Answered, streamed: bool) -> None:
    _document(base).judge(method, path, answer, streamed=streamed)


_known: dict[str, Document] = {}


def _document(base: str) -> Document:
    """This gateway's. All are the same, so one that is draining need not be asked."""
    if not _known:
        _known[""] = read_document(base)
    return _known[""]


def read_document(base: str) -> Document:
    """Ask the gateway at this address for its document."""
    return Document(httpx.get(f"{base}openapi.json", trust_env=False, timeout=60).raise_for_status().json())


def _judge_headers(where: str, headers: Mapping[str, str], described: Mapping[str, Any]) -> None:
    for name, value in headers.items():
        if _TOLD.fullmatch(name) and name not in _TRANSPORT and name not in described:
            raise Undocumented(f"{where}: header {name}: {value} is not described")
    missing = [name for name, header in described.items() if header.get("required") and name not in headers]
    if missing:
        raise Undocumented(f"{where}: header {', '.join(missing)} is described as always there, and is not")


def _stray(code: str, *, observed: bool) -> Mapping[str, Any]:
    error = {"$ref": "#/components/schemas/Error"}
    narrowed = {"properties": {"error": {"properties": {"code": {"const": code}}}}}
    return {
        "headers": {"x-request-id": {"required": True}} if observed else {},
        "content": {"application/json": {"schema": {"allOf": [error, narrowed]}}},
    }


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path)))


def _closed(schema: Any) -> Any:
    """Objects without a word on other fields have none."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    closed = {name: _closed(part) for name, part in schema.items()}
    if closed.get("type") == "object" and "properties" in closed:
        closed.setdefault("additionalProperties", False)
    return closed
