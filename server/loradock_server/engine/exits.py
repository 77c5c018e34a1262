"""Why an engine process left, as its exit status tells the supervisor."""

from __future__ import annotations

import contextlib
import signal

DIED = 70
ORPHANED = 71
HUNG = 72
UNSOUND = 73

_REASONS = {
    DIED: "vLLM's core or a worker died",
    ORPHANED: "its supervisor went away",
    HUNG: "vLLM's core or a worker hung",
    UNSOUND: "its self-test failed",
}


def explain(status: int) -> str:
    """An exit status in words: `signal SIGKILL`, `status 1`, `status 70 (vLLM's core or a worker died)`."""
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(-status).name}"
    return f"status {status} ({_REASONS[status]})" if status in _REASONS else f"status {status}"
