"""The admin side of a LoRADock server, as client commands call it. Knows HTTP, no flag and no terminal."""

from __future__ import annotations

import http
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit

import httpx

from loradock_adapters.errors import InvalidName
from loradock_adapters.names import AdapterRef, validate_alias, validate_name
from loradock_server import __version__
from loradock_server.cli.answers import as_object, objects_in
from loradock_server.cli.connection import KEY_VARIABLE, Connection
from loradock_server.cli.errors import JsonObject, ServerRefused, Unreachable, Unreadable

ADAPTERS = "/admin/adapters"
PAGE = 500  # one answer of this many adapters is some hundred kilobytes
OPERATIONS = "/admin/operations"
# What a second does not end is answered with an operation, by servers that know such.
_LATER = {"prefer": "respond-async, wait=1"}
# Registering reads and checks a gigabyte before the server answers; anything else is quick.
TIMEOUT = httpx.Timeout(30.0, connect=5.0)
UPLOAD_TIMEOUT = httpx.Timeout(600.0, connect=5.0)
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class AdminClient:
    """A connection to one server; use it as a context manager.

    Every method returns the JSON object of a successful answer, empty for an empty one. Raises ServerRefused
    for an error the server sent and Unreachable when none came.
    """

    def __init__(self, connection: Connection, transport: httpx.BaseTransport | None = None) -> None:
        self.connection = connection
        headers = {"accept": "application/json", "user-agent": f"loradock/{__version__}"}
        if connection.key:
            headers["authorization"] = f"Bearer {connection.key}"
        self._http = httpx.Client(
            headers=headers,
            timeout=TIMEOUT,
            transport=transport,
            # A proxy between this machine and itself would only see the key.
            trust_env=urlsplit(connection.url).hostname not in _LOOPBACK,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, path: str) -> JsonObject:
        """GET `path`, for example `/admin/adapters`."""
        return self._request("GET", path)

    def get_all(self, path: str) -> JsonObject:
        """GET every page of a list as if it were one: the first answer with the data of all."""
        path += "&" if "?" in path else "?"
        answer = self.get(f"{path}limit={PAGE}")
        if not answer.get("has_more"):
            return answer
        data = [*objects_in(answer, "data")]
        last = answer
        while last.get("has_more"):
            last = self.get(f"{path}{urlencode({'limit': PAGE, 'after': last.get('last_id')})}")
            more = objects_in(last, "data")
            if not more:
                break  # a server that promises pages for ever
            data += more
        return {**answer, "data": data, "has_more": False, "last_id": last.get("last_id")}

    def post(
        self,
        path: str,
        body: Mapping[str, Any] | None = None,
        timeout: httpx.Timeout = TIMEOUT,
        *,
        if_match: str | None = None,
    ) -> JsonObject:
        """POST a JSON body, or nothing, to `path`."""
        return self._request("POST", path, json=body, timeout=timeout, headers=_condition(if_match))

    def submit(self, path: str, body: Mapping[str, Any]) -> JsonObject:
        """POST a JSON body to `path` for what may take long; an operation comes back if it does."""
        return self._request("POST", path, json=body, timeout=UPLOAD_TIMEOUT, headers=_LATER)

    def upload(self, path: str, files: Any) -> JsonObject:
        """POST a multipart form to `path`; `files` as httpx takes them, read while they are sent. An operation comes
        back if what follows takes long.
        """
        return self._request("POST", path, files=files, timeout=UPLOAD_TIMEOUT, headers=_LATER)

    def put(self, path: str, body: Mapping[str, Any] | None = None, *, if_match: str | None = None) -> JsonObject:
        """PUT a JSON body to `path`, or nothing where the path says it all."""
        return self._request("PUT", path, json=body, headers=_condition(if_match))

    def patch(self, path: str, patch: Mapping[str, Any], *, if_match: str | None = None) -> JsonObject:
        """PATCH `path` with a JSON merge patch."""
        headers = {"content-type": "application/merge-patch+json", **_condition(if_match)}
        return self._request("PATCH", path, content=json.dumps(patch).encode(), headers=headers)

    def delete(self, path: str, *, if_match: str | None = None) -> JsonObject:
        """DELETE `path`."""
        return self._request("DELETE", path, headers=_condition(if_match))

    def _request(self, method: str, path: str, **options: Any) -> JsonObject:
        with self._reached():
            response = self._http.request(method, self.connection.url + path, **options)
        return self._answer(response)

    @contextmanager
    def download(self, path: str) -> Iterator[tuple[int | None, Iterator[bytes]]]:
        """GET `path` as bytes that come while they are read; yields how many there will be, if known, and them."""
        with self._reached(), self._http.stream("GET", self.connection.url + path, timeout=UPLOAD_TIMEOUT) as response:
            if not response.is_success or "json" in response.headers.get("content-type", ""):
                response.read()
                self._answer(response)
            length = response.headers.get("content-length", "")
            yield int(length) if length.isdecimal() else None, response.iter_bytes()

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            raise self._nobody_there(error) from error
        except httpx.TimeoutException as error:
            raise Unreachable(
                f"the server at {self.connection.url} did not answer in time ({type(error).__name__})",
                fix=f"see whether it is busy: curl {self.connection.url}/readyz",
            ) from error
        except httpx.HTTPError as error:
            raise Unreachable(
                f"the connection to {self.connection.url} broke: {error or type(error).__name__}",
                fix="try again; the server's log says more",
            ) from error

    def _answer(self, response: httpx.Response) -> JsonObject:
        try:
            document = response.json() if response.content else {}
        except (ValueError, RecursionError):
            document = _NOT_JSON
        if response.is_success and document is not _NOT_JSON:
            return as_object(document, "answer")
        if isinstance(document, dict) and isinstance(document.get("error"), dict):
            raise ServerRefused(response.status_code, document["error"], fix=self._fix(response))
        raise Unreachable(
            f"{self.connection.url} answered {_status(response)} with "
            f"{response.headers.get('content-type', 'no content type')}; a LoRADock server answers in JSON",
            fix=f"check the address, which came from {self.connection.origin}",
        )

    def _fix(self, response: httpx.Response) -> str | None:
        if response.status_code == http.HTTPStatus.UNAUTHORIZED:
            if self.connection.key is None:
                return f"set {KEY_VARIABLE} to a key with the admin scope"
            return f"the key was sent ({KEY_VARIABLE} or the home folder's); check that it is this server's"
        if response.status_code == http.HTTPStatus.FORBIDDEN:
            return f"set {KEY_VARIABLE} to a key with the admin scope"
        wait = response.headers.get("retry-after")
        return f"try again in {wait} s" if wait else None

    def _nobody_there(self, error: httpx.ConnectError) -> Unreachable:
        return Unreachable(
            f"no server answers at {self.connection.url} (from {self.connection.origin}): {error}",
            fix="start one with loradock serve, or name another with --url http://host:port",
        )


def adapter_path(name: str) -> str:
    """The admin route of an adapter. Raises Unreadable for a string that is no adapter name."""
    try:
        return f"{ADAPTERS}/{quote(validate_name(name), safe='')}"
    except InvalidName as error:
        raise Unreadable(str(error)) from error


def version_path(adapter_id: str) -> str:
    """The admin route of "name@3". Raises Unreadable for anything else."""
    try:
        ref = AdapterRef.parse(adapter_id)
    except InvalidName as error:
        raise Unreadable(str(error)) from error
    return f"{adapter_path(ref.name)}/versions/{ref.version}"


def operation_path(id: str) -> str:
    """The admin route of an operation."""
    return f"{OPERATIONS}/{quote(id, safe='')}"


def alias_path(name: str, alias: str) -> str:
    """The admin route of an alias. Raises Unreadable for strings that are no names."""
    try:
        return f"{adapter_path(name)}/aliases/{quote(validate_alias(alias), safe='')}"
    except InvalidName as error:
        raise Unreadable(str(error)) from error


_NOT_JSON = object()


def _condition(revision: str | None) -> dict[str, str]:
    """A revision as If-Match takes it; quotes around it are ours."""
    return {} if revision is None else {"if-match": revision if revision == "*" else f'"{revision.strip(chr(34))}"'}


def _status(response: httpx.Response) -> str:
    return f"HTTP {response.status_code} {response.reason_phrase}".strip()
