"""What each request cost, settled exactly once: metrics, the end of its CLIENT span, one log line.

Requests and durations are counted when the answer is over. Tokens come from the engine's usage feed, the only
place that knows them for aborted streams too; the span stays open until they arrive, at most
USAGE_WAIT_SECONDS. It knows no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from opentelemetry.trace import Span

from loradock_server.gateway.alarms import Alarm, Alarms
from loradock_server.gateway.exchange import Exchange
from loradock_server.gateway.usage import Usage
from loradock_server.telemetry import attributes as names
from loradock_server.telemetry.metrics import GatewayMetrics
from loradock_server.telemetry.series import Series, SeriesTable

USAGE_WAIT_SECONDS = 2.0

_log = logging.getLogger("loradock.request")


class Ledger:
    """Holds every request from its start until request and usage are both settled. One event loop only."""

    def __init__(self, metrics: GatewayMetrics) -> None:
        self._series = SeriesTable(metrics)
        self._open: dict[str, Exchange] = {}
        self._early: dict[str, Usage] = {}
        self._waiting: dict[str, Alarm] = {}
        self._alarms = Alarms(USAGE_WAIT_SECONDS)
        self._quiet = asyncio.Event()
        self._quiet.set()

    def begin(self, exchange: Exchange) -> None:
        """The request is about to go to the engine for `exchange.target`."""
        self._open[exchange.request_id] = exchange
        self._of(exchange).requests_in_flight.inc()

    def finish(self, exchange: Exchange) -> None:
        """The answer is over, well or badly. Called once for every inference request, begun or not."""
        exchange.end()
        series = self._of(exchange)
        series.requests(exchange.operation.name, exchange.code).inc()
        series.request_duration.observe(exchange.duration)
        if exchange.request_id not in self._open:
            self._settle(exchange, None)
            return
        series.requests_in_flight.dec()
        usage = self._early.pop(exchange.request_id, None)
        if usage is not None or not exchange.sent:
            self._settle(exchange, usage)
            return
        self._quiet.clear()
        self._waiting[exchange.request_id] = self._alarms.start(partial(self._settle, exchange, None))

    def record(self, usage: Usage) -> None:
        """A line of the feed; the feed never repeats one. Tokens are counted even if nobody waits any more."""
        series = self._series.of(usage.adapter)
        series.input_tokens.inc(usage.input_tokens)
        series.output_tokens.inc(usage.output_tokens)
        series.cached_tokens.inc(usage.cached_tokens)
        exchange = self._open.get(usage.request_id)
        if exchange is None:
            return
        if usage.request_id in self._waiting:
            self._settle(exchange, usage)
        else:
            self._early[usage.request_id] = usage

    async def settled(self) -> None:
        """Wait until no finished request waits for its usage: at most USAGE_WAIT_SECONDS."""
        await self._quiet.wait()

    def _settle(self, exchange: Exchange, usage: Usage | None) -> None:
        self._open.pop(exchange.request_id, None)
        alarm = self._waiting.pop(exchange.request_id, None)
        if alarm is not None:
            alarm.cancel()
        if not self._waiting:
            self._quiet.set()
        series = self._of(exchange)
        first = exchange.time_to_first_content
        if usage is not None:
            exchange.residency = exchange.residency or usage.residency
            if exchange.span.is_recording():
                _tell(exchange.span, usage)
            if first is None and not exchange.stream:
                first = usage.time_to_first_token
            pace = _time_per_output_token(exchange, usage)
            if pace is not None:
                series.time_per_output_token.observe(pace)
        if first is not None:
            series.time_to_first_token.observe(first)
        exchange.close_span()
        self._log(exchange, usage, first)

    def _of(self, exchange: Exchange) -> Series:
        return self._series.unknown if exchange.target is None else self._series.of(exchange.target.ref)

    def _log(self, exchange: Exchange, usage: Usage | None, first: float | None) -> None:
        if not _log.isEnabledFor(logging.INFO):
            return
        target = exchange.target
        trace_id = exchange.server_span.get_span_context().trace_id
        _log.info(
            "%s %s",
            exchange.operation.path,
            exchange.code,
            extra={
                "request_id": exchange.request_id,
                "trace_id": format(trace_id, "032x") if trace_id else None,
                "caller": exchange.caller or None,
                "model": exchange.asked,
                "adapter": target.ref.id if target and target.ref else None,
                "digest": target.digest if target else None,
                "residency": exchange.residency,
                "duration_seconds": round(exchange.duration, 4),
                "time_to_first_token_seconds": None if first is None else round(first, 4),
                "input_tokens": usage.input_tokens if usage else None,
                "output_tokens": usage.output_tokens if usage else None,
                "finish_reason": usage.finish_reason if usage else None,
                "reason": None if exchange.error is None else str(exchange.error),
            },
        )


def _tell(span: Span, usage: Usage) -> None:
    span.set_attribute(names.USAGE_INPUT_TOKENS, usage.input_tokens)
    span.set_attribute(names.USAGE_OUTPUT_TOKENS, usage.output_tokens)
    span.set_attribute(names.USAGE_CACHE_READ_INPUT_TOKENS, usage.cached_tokens)
    if usage.finish_reason is not None:
        span.set_attribute(names.RESPONSE_FINISH_REASONS, (usage.finish_reason,))


def _time_per_output_token(exchange: Exchange, usage: Usage) -> float | None:
    """Mean seconds between the tokens of a stream after the first. Several choices at once have no such mean."""
    first, last = exchange.first_content, exchange.last_chunk
    if first is None or last is None or exchange.choices != 1 or usage.output_tokens < 2:
        return None
    return (last - first) / (usage.output_tokens - 1)
