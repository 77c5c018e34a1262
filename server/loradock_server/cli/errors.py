"""Why a command failed, as a small tree; each class fixes the exit code that scripts see.

    CommandError
    ├── Refused            1   understood and turned down
    │   └── ServerRefused      by the server, with its own words
    ├── Stopped            130 by whoever pressed Ctrl-C; can be gone on with
    └── NotDone            2   nothing could be judged
        ├── Unreadable         a file, a folder, a setting or a flag
        └── Unreachable        a server that does not answer, or not as LoRADock would

Knows neither HTTP nor terminals: `client.py` raises these and `output.py` shows them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

JsonObject = Mapping[str, Any]


class CommandError(Exception):
    """A command failed; the person or script that ran it sees `message`, `fix` and `exit_code`."""

    exit_code = 1
    code = "failed"

    def __init__(self, message: str, *, fix: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    @property
    def document(self) -> dict[str, Any]:
        """The error as `--json` shows it, in OpenAI's shape."""
        body = {"message": self.message, "type": "cli_error", "param": None, "code": self.code}
        return {"error": body | ({"fix": self.fix} if self.fix else {})}

    @property
    def faults(self) -> Sequence[JsonObject]:
        """Single faults behind the error, each with code, where, value, limit and fix."""
        return ()


class Refused(CommandError):
    """What was asked is understood and not allowed, or was not done."""

    code = "refused"


class ServerRefused(Refused):
    """The server answered with an error. `body` is its `error` object, `status` the HTTP status."""

    def __init__(self, status: int, body: JsonObject, *, fix: str | None = None) -> None:
        super().__init__(str(body.get("message") or f"the server answered HTTP {status}"), fix=fix)
        self.status = status
        self.body = body

    @property
    def document(self) -> dict[str, Any]:
        return {"error": dict(self.body) | {"status": self.status} | ({"fix": self.fix} if self.fix else {})}

    @property
    def faults(self) -> Sequence[JsonObject]:
        found = self.body.get("faults")
        return [fault for fault in found if isinstance(fault, Mapping)] if isinstance(found, list) else ()


class Stopped(CommandError):
    """Somebody stopped the command, and what it had done is kept. The code is what shells have for Ctrl-C."""

    exit_code = 130
    code = "stopped"


class NotDone(CommandError):
    """Nothing could be judged: wrong use, unreadable input, no server."""

    exit_code = 2
    code = "not_done"


class Unreadable(NotDone):
    """A file, folder, setting or argument cannot be used."""

    code = "unreadable"


class Unreachable(NotDone):
    """No LoRADock server answers where it was looked for."""

    code = "unreachable"
