"""How much somebody may ask for: requests and tokens a minute, requests at a time, tokens a day.

Values only, the same for an API key and for an adapter. Who counts, and what happens over a limit, the gateway knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any

from loradock_adapters.errors import InvalidLimits
from loradock_adapters.faults import Fault

HIGHEST: Mapping[str, int] = {
    "requests_per_minute": 10_000_000,
    "tokens_per_minute": 1_000_000_000_000,
    "max_concurrency": 100_000,
    "tokens_per_day": 1_000_000_000_000_000,
}
"""The largest value of each limit; the smallest is 1."""

_FIX = "give a whole number, or null for no limit"


@dataclass(frozen=True, slots=True)
class RateLimits:
    """None: no limit. Tokens are those of prompts and answers together; a day begins at 00:00 UTC.

    Raises InvalidLimits for a value that is no limit, with all that is wrong.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrency: int | None = None
    tokens_per_day: int | None = None

    def __post_init__(self) -> None:
        _refuse(_faults({name: getattr(self, name) for name in HIGHEST}))

    @property
    def is_empty(self) -> bool:
        """Whether nothing is limited."""
        return (
            self.requests_per_minute is None
            and self.tokens_per_minute is None
            and self.max_concurrency is None
            and self.tokens_per_day is None
        )

    def document(self) -> dict[str, int]:
        """The limits as JSON: nothing of those that are not set."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def read(cls, document: Any) -> RateLimits:
        """As `document` gave them, or as a client sent them; null means no limit. Raises InvalidLimits."""
        if not isinstance(document, Mapping):
            kind = type(document).__name__
            fix = 'write for instance {"requests_per_minute": 60}'
            _refuse([Fault("invalid_limits", "limits", kind, "must be a JSON object of numbers by name", fix)])
        unknown = [
            Fault("unknown_limit", str(name)[:80], "no such limit", _nearest(str(name)), "leave it out")
            for name in document
            if name not in HIGHEST
        ]
        _refuse(unknown + _faults(document))
        return cls(**document)


def _faults(values: Mapping[str, Any]) -> list[Fault]:
    faults = []
    for name, highest in HIGHEST.items():
        value = values.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= highest:
            limit = f"must be a whole number from 1 to {highest}"
            faults.append(Fault("invalid_limit", name, _shown(value), limit, _FIX))
    return faults


def _refuse(faults: list[Fault]) -> None:
    if faults:
        raise InvalidLimits(tuple(faults))


def _shown(value: Any) -> str:
    # A whole number of thousands of digits is not to be turned into text at all.
    text = "a huge number" if isinstance(value, int) and value.bit_length() > 200 else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _nearest(name: str) -> str:
    found = get_close_matches(name[:80], HIGHEST, n=1, cutoff=0.5)
    return f"did you mean {found[0]}?" if found else f"there are {', '.join(HIGHEST)}"


NO_LIMITS = RateLimits()
