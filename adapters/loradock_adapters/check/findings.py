"""Where the checks write down what they find. It shortens: a thousand equal faults are one story."""

from __future__ import annotations

from collections import defaultdict

from loradock_adapters.faults import Fault

SHOWN_PER_CODE = 5
_MAX_SHOWN = 120  # characters of anything a stranger wrote


class Findings:
    """Faults and warnings of one check, in the order they were found."""

    def __init__(self) -> None:
        self._faults: dict[str, list[Fault]] = defaultdict(list)
        self._more: dict[str, int] = defaultdict(int)
        self._warnings: list[str] = []

    def fault(self, code: str, where: str, value: str, limit: str, fix: str) -> None:
        if self.full(code):
            self._more[code] += 1
        else:
            self._faults[code].append(Fault(code, shortened(where), shortened(value), limit, fix))

    def warn(self, text: str) -> None:
        self._warnings.append(text)

    def full(self, code: str) -> bool:
        """Whether further faults of this code will only be counted."""
        return len(self._faults.get(code, ())) >= SHOWN_PER_CODE

    @property
    def faults(self) -> tuple[Fault, ...]:
        found: list[Fault] = []
        for code, faults in self._faults.items():
            found += faults
            if more := self._more[code]:
                last = faults[-1]
                found.append(Fault(code, f"{more} more", f"{code} as above", last.limit, last.fix))
        return tuple(found)

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(self._warnings)


def shortened(text: str, limit: int = _MAX_SHOWN) -> str:
    """Printable, and no longer than the limit."""
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[: limit + 1])
    return clean if len(clean) <= limit else clean[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"
