"""Every error a client can see, in OpenAI's shape, from one table.

    GatewayError
    ├── BadRequest              400   the body cannot be used; a client's mistake
    │   └── Unsupported               a parameter that would be ignored
    ├── InvalidKey              401   no key, or one we do not know
    ├── SignersUnavailable      503   a token, and nobody can say whether its signer is its issuer's
    ├── MissingScope            403   a good key, but not for this
    ├── ClientTooSlow           408   its body did not arrive within client_timeout
    ├── ModelNotFound           404   inference asked for a name we do not serve
    ├── RouteNotFound           404   no such path
    ├── NotKept                 404   a stored response, of which this server keeps none
    ├── TooLarge                413   body or upload over its limit
    ├── WrongMediaType          415   a body of another kind than the route takes
    ├── Conflict                409   it would break what is there
    │   ├── NameTaken                 an adapter may not have this name
    │   └── OperationRuns             the same request is being worked on
    ├── ProbeFailed             422   the smoke probe found an adapter that must not be served
    ├── OverLimit               429   .about
    │   ├── RateLimited               requests or tokens a minute
    │   ├── QuotaExhausted            tokens a day
    │   ├── AdapterBusy               requests at a time
    │   └── KeyBusy
    ├── EngineRefused           any   the engine's own error, passed on
    ├── EngineTimeout           504   one of the timeouts ran out; the message says which
    ├── EngineUnavailable       503   no engine, or it died before it answered
    │   └── EngineGarbled       502   what answers there speaks no HTTP, or none that an engine speaks
    ├── OperationLost           503   the gateway that worked on it died
    ├── DiskFull                507   an adapter's bytes have no place here
    └── ShuttingDown            503   this gateway is draining
    ClientGone                        the client hung up; nobody is left to tell (counted as 499)

Handlers raise; nobody but this module writes an error body. It knows no HTTP framework.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from loradock_adapters import errors as core
from loradock_server.gateway.engine_words import in_openais_words
from loradock_server.gateway.etags import etag_header
from loradock_server.gateway.routes import Dialect
from loradock_server.wire import error_body

CLIENT_GONE_STATUS = 499
RETRY_AFTER_SECONDS = 5
_PATIENCE_SECONDS = 60.0
# https://docs.anthropic.com/en/api/errors, with the status that its clients look at left as it is.
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class GatewayError(Exception):
    """Something a client is told; `param` names the field at fault."""

    param: str | None = None

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class BadRequest(GatewayError):
    """The request cannot be understood."""


class Unsupported(BadRequest):
    """A parameter of the API that would be ignored here."""


class InvalidKey(GatewayError):
    """The key is missing or unknown."""


class SignersUnavailable(GatewayError):
    """The keys of the tokens' issuer cannot be had."""


class MissingScope(GatewayError):
    """The key is good, but lacks the scope."""


class ModelNotFound(GatewayError, LookupError):
    """No such model for inference."""


class RouteNotFound(GatewayError, LookupError):
    """No such path."""


class NotKept(GatewayError, LookupError):
    """A response that was answered before; this server stores none."""


class ClientTooSlow(GatewayError):
    """The body did not arrive in time."""


class TooLarge(GatewayError):
    """A body or an upload is over its limit."""


class WrongMediaType(GatewayError):
    """A body of another content type than the route takes."""


class Conflict(GatewayError):
    """What is asked for does not go together with what is there."""


class NameTaken(Conflict):
    """The name belongs to something else."""


class OperationRuns(Conflict):
    """The same request, by its idempotency key, came before and is not over."""


class ProbeFailed(GatewayError):
    """An adapter does nothing, or nothing sensible, on the live engine; its version has failed."""


class OverLimit(GatewayError):
    """A limit of the API key or of the adapter is in the way: `about` says which, `wait` for how many seconds."""

    def __init__(self, message: str, *, wait: float, about: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.wait = wait
        self.about = about

    @property
    def retry_after(self) -> str:
        """Whole seconds, as HTTP has them; never too early."""
        return str(max(1, math.ceil(round(self.wait, 6))))

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """For OpenAI's clients: to the millisecond; and that they must not wait for long by themselves."""
        exact = ("retry-after-ms", str(max(1, math.ceil(round(self.wait * 1000, 3)))))
        return (exact,) if self.wait <= _PATIENCE_SECONDS else (exact, ("x-should-retry", "false"))


class RateLimited(OverLimit):
    """Too many requests or tokens in a minute."""


class QuotaExhausted(OverLimit):
    """The tokens of the day are used up."""


class AdapterBusy(OverLimit):
    """As many requests of the adapter are being answered as its operator allows."""


class KeyBusy(OverLimit):
    """As many requests of the API key are being answered as it may have."""


class LimitStoreError(core.LoraDockError):
    """The store in which gateways share limits did not answer, or not as it should; seen by the operator."""


class EngineRefused(GatewayError):
    """The engine answered with an error; `status` and `retry_after` are its own."""

    def __init__(self, status: int, error: Mapping[str, Any], retry_after: str | None = None) -> None:
        words = in_openais_words(status, error)
        super().__init__(words.message, param=words.param)
        self.status = status
        self.code = words.code
        self.retry_after = retry_after


class EngineTimeout(GatewayError):
    """The engine took longer than one of the timeouts allows."""


class EngineUnavailable(GatewayError):
    """No engine answered, or it died on the way."""


class EngineGarbled(EngineUnavailable):
    """What answers at the engine's address says nothing that an engine says."""


class OperationLost(GatewayError):
    """Nobody works on it any more; how far it got is not known."""


class DiskFull(GatewayError):
    """The server's disk has no room for what was sent."""


class ShuttingDown(GatewayError):
    """This gateway takes no new requests."""


class ClientGone(Exception):
    """The client closed the connection."""


@dataclass(frozen=True, slots=True)
class Rule:
    status: int
    code: str | None
    kind: str = "invalid_request_error"
    param: str | None = None


# Looked up along the MRO: the nearest class wins.
TABLE: Mapping[type[BaseException], Rule] = {
    BadRequest: Rule(400, None),
    Unsupported: Rule(400, "unsupported_parameter"),
    InvalidKey: Rule(401, "invalid_api_key"),
    SignersUnavailable: Rule(503, "jwks_unavailable", "server_error"),
    MissingScope: Rule(403, "insufficient_permissions"),
    ModelNotFound: Rule(404, "model_not_found", param="model"),
    RouteNotFound: Rule(404, "route_not_found"),
    NotKept: Rule(404, "response_not_found", param="response_id"),
    ClientTooSlow: Rule(408, "request_timeout"),
    TooLarge: Rule(413, "too_large"),
    WrongMediaType: Rule(415, "unsupported_media_type"),
    Conflict: Rule(409, "conflict"),
    NameTaken: Rule(409, "name_taken", param="name"),
    OperationRuns: Rule(409, "operation_running", param="Idempotency-Key"),
    ProbeFailed: Rule(422, "probe_failed"),
    RateLimited: Rule(429, "rate_limit_exceeded", "rate_limit_error"),
    QuotaExhausted: Rule(429, "insufficient_quota", "insufficient_quota"),
    AdapterBusy: Rule(429, "adapter_concurrency", "rate_limit_error", param="model"),
    KeyBusy: Rule(429, "key_concurrency", "rate_limit_error"),
    EngineTimeout: Rule(504, "engine_timeout", "server_error"),
    EngineUnavailable: Rule(503, "engine_unavailable", "server_error"),
    EngineGarbled: Rule(502, "engine_garbled", "server_error"),
    OperationLost: Rule(503, "operation_lost", "server_error"),
    DiskFull: Rule(507, "disk_full", "server_error"),
    ShuttingDown: Rule(503, "shutting_down", "server_error"),
    core.InvalidName: Rule(400, "invalid_name", param="name"),
    core.AdapterRejected: Rule(422, "adapter_rejected"),
    core.AdapterUnreadable: Rule(422, "adapter_unreadable"),
    core.SourceRefused: Rule(400, "invalid_source", param="source"),
    core.SourceForbidden: Rule(403, "source_refused", param="source"),
    core.SourceMissing: Rule(404, "source_not_found", param="source"),
    core.SourceTooLarge: Rule(413, "too_large", param="source"),
    core.ArchiveRefused: Rule(422, "archive_refused", param="source"),
    core.SourceUnavailable: Rule(502, "source_unavailable", "server_error", param="source"),
    core.DigestUnknown: Rule(404, "digest_unknown", param="source"),
    core.AdapterNotFound: Rule(404, "adapter_not_found", param="name"),
    core.VersionNotFound: Rule(404, "version_not_found", param="version"),
    core.AliasNotFound: Rule(404, "alias_not_found", param="alias"),
    core.InvalidSplit: Rule(400, "invalid_split", param="split"),
    core.InvalidSettings: Rule(400, "invalid_settings"),
    core.InvalidLimits: Rule(400, "invalid_limits", param="limits"),
    core.VersionRetired: Rule(410, "adapter_retired", param="model"),
    core.AdapterConflict: Rule(409, "conflict"),
    core.AdapterExists: Rule(409, "adapter_exists", param="name"),
    core.GateRefused: Rule(409, "promotion_refused", param="version"),
    core.InvalidEvaluation: Rule(400, "invalid_evaluation"),
    core.EvaluationNotFound: Rule(404, "evaluation_not_found", param="number"),
    core.VersionInUse: Rule(409, "version_in_use", param="version"),
    core.ChangedMeanwhile: Rule(412, "precondition_failed"),
    core.KeyNotFound: Rule(404, "key_not_found", param="id"),
    core.KeyConflict: Rule(409, "conflict"),
    core.OperationNotFound: Rule(404, "operation_not_found", param="id"),
    core.ClaimReused: Rule(422, "idempotency_key_reused", param="Idempotency-Key"),
    core.StoreError: Rule(500, "store_error", "server_error"),
    core.RegistryError: Rule(503, "registry_unavailable", "server_error"),
    Exception: Rule(500, "internal_error", "server_error"),
}


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """An error ready to be sent: HTTP status, JSON body and the headers it needs."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    dialect: Dialect = "openai"

    @property
    def sse(self) -> bytes:
        """The same error inside a stream that has begun, and the stream's regular end."""
        if self.dialect == "anthropic":
            return b"event: error\ndata: " + self.body + b"\n\n"
        if self.dialect == "responses":
            error = json.loads(self.body)["error"]
            # The event as OpenAI has it, and `error`, which its SDKs raise.
            event = {"type": "error", **{key: error[key] for key in ("code", "message", "param")}, "error": error}
            return b"event: error\ndata: " + json.dumps(event).encode() + b"\n\n"
        return b"data: " + self.body + b"\n\ndata: [DONE]\n\n"

    def in_dialect(self, dialect: Dialect) -> ErrorAnswer:
        """The same error as clients of that API read it; of Anthropic's, `type` is what there is of a code."""
        if dialect != "anthropic":
            return replace(self, dialect=dialect)
        said = json.loads(self.body)["error"]
        kind = _ANTHROPIC_TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "api_error")
        error = {"type": kind, "message": said["message"], "code": said["code"], "param": said["param"]}
        return replace(self, body=json.dumps({"type": "error", "error": error}).encode(), dialect=dialect)


def explain(error: BaseException) -> ErrorAnswer:
    """The answer for any exception; what we did not foresee is a 500 that says nothing of our insides."""
    if isinstance(error, EngineRefused):
        kind = "invalid_request_error" if error.status < 500 else "server_error"
        kind = "rate_limit_error" if error.status == 429 else kind
        return _answer(error.status, str(error), Rule(error.status, error.code, kind, error.param), error.retry_after)
    rule = next(TABLE[cls] for cls in type(error).__mro__ if cls in TABLE)
    foreseen = rule is not TABLE[Exception]
    message = str(error) if foreseen else "internal error; the server's log has the details under the request id"
    extra: dict[str, Any] = {}
    if isinstance(error, core.AdapterRejected):
        extra["faults"] = [fault.as_dict() for fault in error.report.faults]
    if isinstance(error, core.GateRefused):
        extra["gate"] = [objection.as_dict() for objection in error.objections]
    if isinstance(error, core.InvalidSettings):
        extra["faults"] = [fault.as_dict() for fault in error.faults]
        return _answer(rule.status, message, rule, None, error.faults[0].where if error.faults else None, extra)
    if isinstance(error, core.InvalidLimits):
        extra["faults"] = [fault.as_dict() for fault in error.faults]
    if isinstance(error, OverLimit):
        extra["limit"] = error.about
        return _answer(rule.status, message, rule, error.retry_after, extra=extra, headers=error.headers)
    if isinstance(error, core.ChangedMeanwhile):
        extra |= {"expected": error.expected, "current": error.current}
        return _answer(rule.status, message, rule, None, extra=extra, headers=etag_header(error.revision))
    return _answer(rule.status, message, rule, None, getattr(error, "param", None), extra)


_HTTP_CODES = {404: "route_not_found", 405: "method_not_allowed", 408: "request_timeout", 431: "too_large"}


def http_error(status: int, message: str) -> ErrorAnswer:
    """The answer for an error that the web framework raised (404, 405 and their like)."""
    code = _HTTP_CODES.get(status)
    kind = "invalid_request_error" if status < 500 else "server_error"
    return _answer(status, message, Rule(status, code, kind), None)


def _answer(
    status: int,
    message: str,
    rule: Rule,
    retry_after: str | None,
    param: str | None = None,
    extra: Mapping[str, Any] | None = None,
    headers: Iterable[tuple[str, str]] = (),
) -> ErrorAnswer:
    body = error_body(message, kind=rule.kind, code=rule.code or "", param=param or rule.param)
    body["error"]["code"] = rule.code
    body["error"].update(extra or {})
    sent = [("content-type", "application/json"), *headers]
    if status in (429, 503):
        sent.append(("retry-after", retry_after or str(RETRY_AFTER_SECONDS)))
    if status == 401:
        sent.append(("www-authenticate", "Bearer"))
    if status in (408, 413):
        sent.append(("connection", "close"))  # the rest of the body is not worth reading
    return ErrorAnswer(status, json.dumps(body, default=str).encode(), tuple(sent))
