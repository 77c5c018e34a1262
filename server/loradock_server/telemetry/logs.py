"""Log lines for people (text) or for machines (one JSON object a line), on stderr.

Whatever a caller passes as `extra=` becomes a field. Configures only when asked, never at import.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

LogFormat = Literal["auto", "text", "json"]

# What every record has by itself; anything else on it came through `extra=`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}

_CHATTY = ("alembic", "httpcore", "httpx", "uvicorn")


def configure_logging(log_format: LogFormat, level: str) -> None:
    """Send every logger's lines to stderr; `auto` means text on a terminal and JSON elsewhere."""
    if log_format == "auto":
        log_format = "text" if sys.stderr.isatty() else "json"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Their everyday remarks (a line per HTTP call, per migration step) are not what an operator asked to see.
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.DEBUG if level == "debug" else logging.WARNING)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC, ISO 8601), level, logger, message, extra fields, error."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update(_extra(record))
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """`12:03:44 info    loradock.gateway  message  key=value …`"""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s  %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{key}={_one_line(value)}" for key, value in _extra(record).items() if value is not None)
        line = super().formatMessage(record)
        return f"{line}  {fields}" if fields else line


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _one_line(value: object) -> str:
    """Text that cannot fake a second log line or a second field."""
    text = str(value)
    return json.dumps(text) if not text.isprintable() or " " in text or "=" in text else text
