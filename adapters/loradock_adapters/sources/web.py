"""An archive at a web address: fetched in pieces that can be resumed, each redirect judged like the address itself.

It sends no credentials. What a signed address says after its question mark is never shown or kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urldefrag, urljoin

import httpx

from loradock_adapters.errors import SourceForbidden, SourceMissing, SourceUnavailable
from loradock_adapters.sources.allowed import AllowList
from loradock_adapters.sources.retries import Passing, persistently
from loradock_adapters.sources.transfer import Transfer
from loradock_adapters.sources.uri import WEB, SourceUri, parse_uri

_MOST_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


def download(uri: SourceUri, target: Path, allowed: AllowList, transfer: Transfer) -> None:
    """Write what is at the address into a new file. Raises SourceRefused in one of its forms."""
    timeout = httpx.Timeout(transfer.limits.silence, connect=transfer.limits.connect)
    with httpx.Client(timeout=timeout) as client, target.open("xb"):
        fetch = _Fetch(client, uri, target, allowed, transfer)
        persistently(fetch.attempt, transfer)


@dataclass(slots=True)
class _Fetch:
    """The target grows from attempt to attempt; `_version` is what the server calls the bytes that are in it."""

    client: httpx.Client
    uri: SourceUri
    target: Path
    allowed: AllowList
    transfer: Transfer
    _version: str | None = field(default=None)

    def attempt(self) -> None:
        """Fetch the rest. Raises Passing and SourceRefused."""
        have = self.transfer.done if self._version else 0
        headers = {"accept-encoding": "identity", "user-agent": "loradock"}
        if have and self._version:
            headers |= {"range": f"bytes={have}-", "if-range": self._version}
        try:
            with self._opened(headers) as response:
                start, total = self._begins(response, have)
                self._version = _strong_version(response.headers)
                self._take(response, start, total)
        except httpx.TransportError as error:
            raise Passing(f"{error or type(error).__name__}") from error

    def _begins(self, response: httpx.Response, have: int) -> tuple[int, int | None]:
        """From which byte on it sends, and how many there are in all."""
        status = response.status_code
        if status == 206:
            found = _RANGE.fullmatch(response.headers.get("content-range", ""))
            if found is None or int(found[1]) != have:
                self._version = None
                raise Passing(f"the server sent another part ({response.headers.get('content-range', '')[:80]!r})")
            return have, None if found[2] == "*" else int(found[2])
        if status == 200:
            announced = response.headers.get("content-length", "")
            return 0, int(announced) if announced.isdecimal() else None
        if status in _PASSING or status == 416:
            self._version = None if status == 416 else self._version
            raise Passing(f"the server answered {status}", _retry_after(response.headers))
        if status in (404, 410):
            raise SourceMissing(f"{self.uri} is not there", f"the server answered {status}", "correct the address")
        raise SourceUnavailable(
            f"{self.uri} cannot be fetched",
            f"the server answered {status}",
            "give an address that needs no login, for instance a signed one",
        )

    def _take(self, response: httpx.Response, start: int, total: int | None) -> None:
        self.transfer.rewind(start)
        self.transfer.expect(total)
        with self.target.open("r+b") as file:
            file.truncate(start)
            file.seek(start)
            for piece in response.iter_raw():  # as they come: what is gathered first is lost when it breaks off
                self.transfer.advance(len(piece))
                file.write(piece)
        if total is not None and self.transfer.done != total:
            raise Passing(f"the server sent {self.transfer.done} of {total} bytes")

    @contextmanager
    def _opened(self, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        """The answer, after redirects. Raises SourceForbidden, SourceInvalid, SourceUnavailable."""
        uri = self.uri
        for _ in range(_MOST_REDIRECTS + 1):
            self.transfer.check()
            with self.client.stream("GET", uri.url, headers=headers) as response:
                if response.status_code not in _REDIRECTS:
                    yield response
                    return
                uri = self._next(uri, response.headers.get("location", ""))
        raise SourceUnavailable(
            f"{self.uri} leads from one address to the next", f"at most {_MOST_REDIRECTS} are followed", "give the last"
        )

    def _next(self, uri: SourceUri, location: str) -> SourceUri:
        try:
            target = parse_uri(urldefrag(urljoin(uri.url, location)).url)
        except ValueError as error:
            raise SourceForbidden(f"{uri} redirects to an address that cannot be used", "", str(error)) from error
        if target.scheme not in WEB or (uri.scheme == "https" and target.scheme != "https"):
            raise SourceForbidden(
                f"{uri} redirects to {target.scheme}://", "an https address stays one", "give another address"
            )
        self.allowed.require(target, why=f" (a redirect from {uri})")
        return target


def _strong_version(headers: httpx.Headers) -> str | None:
    """What If-Range can compare byte by byte: a strong ETag, else a date."""
    tag: str | None = headers.get("etag")
    date: str | None = headers.get("last-modified")
    return tag if tag and tag.startswith('"') else date


def _retry_after(headers: httpx.Headers) -> float:
    value = headers.get("retry-after", "")
    return float(value) if value.isdecimal() and len(value) < 6 else 0.0
