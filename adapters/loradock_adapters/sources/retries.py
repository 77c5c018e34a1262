"""Trying again what may work the next time: with growing pauses, as long as it gets anywhere.

Which errors are passing ones is each protocol's to say; it raises `Passing` for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import tenacity

from loradock_adapters.errors import SourceUnavailable
from loradock_adapters.sources.transfer import Transfer

ATTEMPTS = 5  # without a single byte of progress
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 20.0

Result = TypeVar("Result")


class Passing(Exception):
    """An attempt failed in a way that may pass; `wait_seconds` is what the other side asked for."""

    def __init__(self, reason: str, wait_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


def persistently(attempt: Callable[[], Result], transfer: Transfer) -> Result:
    """The attempt's result. Raises SourceUnavailable when it gets nowhere or out of time, and what it raises itself."""
    standstill = _Standstill(transfer)
    growing = tenacity.wait_random_exponential(FIRST_PAUSE_SECONDS, max=LONGEST_PAUSE_SECONDS)

    def pause(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.wait_seconds if isinstance(error, Passing) else 0.0
        return max(growing(state), min(asked, LONGEST_PAUSE_SECONDS))

    trying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(Passing),
        stop=standstill,
        wait=pause,
        sleep=transfer.sleep,
        reraise=True,
    )
    try:
        return trying(attempt)
    except Passing as error:
        raise SourceUnavailable(
            f"{transfer.what} cannot be fetched: {error}",
            f"tried {standstill.attempts} times in a row",
            "see whether the other side is up, then try again",
        ) from error


class _Standstill:
    """Says stop after so many attempts that brought nothing."""

    def __init__(self, transfer: Transfer) -> None:
        self._transfer = transfer
        self._best = transfer.done
        self.attempts = 0

    def __call__(self, state: tenacity.RetryCallState) -> bool:
        if self._transfer.done > self._best:
            self._best = self._transfer.done
            self.attempts = 0
        self.attempts += 1
        return self.attempts >= ATTEMPTS
