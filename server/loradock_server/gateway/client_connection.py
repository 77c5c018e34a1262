"""One client's connection: how long its heads may take and be, and how long it may leave what we send unread.

Uvicorn bounds none of that, and tells of bytes that are no HTTP in plain text. Requests for the busiest routes go
there directly. It knows nothing else of routes, and no body: the time for a body is `asgi`'s business.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from starlette.types import ASGIApp

from loradock_server import wire
from loradock_server.gateway.alarms import Alarms
from loradock_server.gateway.asgi import DIRECT
from loradock_server.gateway.corked import Corked
from loradock_server.gateway.direct import DirectCycle
from loradock_server.gateway.errors import http_error
from loradock_server.gateway.uvicorn_names import STATUS_LINE, HttpToolsProtocol, start

MAX_HEAD_BYTES = 64 << 10

_TOO_LONG = (431, f"the request line and headers have more than {MAX_HEAD_BYTES} bytes; send fewer")

_log = logging.getLogger(__name__)


class ClientConnection(HttpToolsProtocol):
    """Make a subclass with `patience_seconds` for uvicorn, which builds one for each connection.

    `keep_alives` end connections that lie idle. `direct` are the applications for POST to these paths, past the one
    that uvicorn was given.
    """

    patience_seconds: float
    keep_alives: Alarms
    direct: Mapping[bytes, ASGIApp] = MappingProxyType({})

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = False
        self._head_began = False  # in the piece that is being parsed
        self._head_bytes = 0
        self._refusal: tuple[int, str] | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None

    # The request line and headers

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        self._corked = Corked(transport, self.loop)
        super().connection_made(self._corked)  # type: ignore[arg-type]  # all of a transport that uvicorn uses
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_head_timer()
        self._cancel_unread_timer()
        super().connection_lost(exc)
        if isinstance(self.cycle, DirectCycle):
            self.cycle.tell_gone()

    def data_received(self, data: bytes) -> None:
        self._head_began = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_head:
            if not self._head_began:
                # All of it belongs to a head that has no end yet. The parser tells of whole headers only.
                self._head_bytes += len(data)
                if self._head_bytes > MAX_HEAD_BYTES:
                    self._refusal = _TOO_LONG
                    self.send_400_response("")
                    return
            if self._head_timer is None:
                self._expect_head()
        elif self._head_timer is None and self.timeout_keep_alive_task is None and not self._is_answering:
            self._expect_head()  # bytes that begin no request end the wait for one, but not for ever

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._head_began = True
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._head_bytes += len(url)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        # As uvicorn has it: this is called too often for another call of its own.
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse_head()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._cancel_head_timer()
        app = self.direct.get(self.url)
        if app is None or self._is_answering or not self._is_plain_post():
            super().on_headers_complete()
            return
        self.scope["method"] = "POST"
        self.scope["path"] = self.url.decode("ascii")
        self.scope["raw_path"] = self.url
        self.scope["query_string"] = b""
        self.cycle = cycle = DirectCycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=[],
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        self.scope[DIRECT] = cycle  # type: ignore[literal-required]  # ASGI leaves room for others' keys
        self._corked.expect_whole()
        start(self, cycle, app)

    def _is_plain_post(self) -> bool:
        parser = self.parser
        return parser.get_method() == b"POST" and parser.get_http_version() == "1.1" and not parser.should_upgrade()

    def _refuse_head(self) -> None:
        self._refusal = _TOO_LONG
        raise ValueError(self._refusal)  # the parser stops, and uvicorn calls `send_400_response`

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(self.patience_seconds, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            return
        if self._is_answering:
            self._expect_head()  # of the request after the one that is being answered, which is no hurry
            return
        if not self._in_head:
            self._close()  # it never asked anything
            return
        limit = f"{self.patience_seconds:g} s (LORADOCK_CLIENT_TIMEOUT)"
        self._refusal = (408, f"the headers did not arrive within {limit}; send them in one go")
        self.send_400_response("")

    def _cancel_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are no request we take; uvicorn calls it when the parser gives up."""
        if self._is_answering and (self.cycle.response_started or self.pipeline or not self.cycle.more_body):
            self._close()  # it would be read as the answer, or a part of one, to the request before
            return
        request_id = uuid.uuid4().hex
        status, text = self._refusal or (400, f"{msg} Send HTTP/1.1 with well-formed headers.")
        _log.info("refused what is no request", extra={"request_id": request_id, "code": status, "reason": text})
        answer = http_error(status, text)
        lines = [
            STATUS_LINE[status],
            b"content-type: application/json\r\n",
            b"content-length: %d\r\n" % len(answer.body),
            b"%s: %s\r\n" % (wire.REQUEST_ID.encode(), request_id.encode()),
            b"connection: close\r\n\r\n",
            answer.body,
        ]
        self.transport.write(b"".join(lines))
        self._close()

    # What we send

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_reading()

    def resume_writing(self) -> None:
        self._cancel_unread_timer()
        super().resume_writing()

    def on_response_complete(self) -> None:
        self._corked.expect_head()
        if not self.pipeline and not self.transport.is_closing():
            # As uvicorn has it, but for the timer.
            self.server_state.total_requests += 1
            self.flow.resume_reading()
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.keep_alives.start(self.timeout_keep_alive_handler)  # type: ignore[assignment]
            return
        super().on_response_complete()
        if self.transport.is_closing():
            self._expect_reading()

    def timeout_keep_alive_handler(self) -> None:
        self._close()

    def _close(self) -> None:
        self.transport.close()
        self._expect_reading()

    def _expect_reading(self) -> None:
        # A transport that is closed waits for its buffer to empty, and a client that reads nothing never empties it.
        if self._unread_timer is None:
            self._unread_timer = self.loop.call_later(self.patience_seconds, self._is_unread)

    def _is_unread(self) -> None:
        self._unread_timer = None
        self.transport.abort()

    def _cancel_unread_timer(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None
