"""Where the checks write down what they find. It shortens: a thousand equal faults are one story."""

from __future__ import annotations

from collections import defaultdict

from loradock_adapters.check.codes import MEANINGS, Code, NoteCode
from loradock_adapters.faults import Fault, Note

SHOWN_PER_CODE = 5
_MAX_SHOWN = 120  # characters of anything a stranger wrote


class Findings:
    """Faults and notes of one check, in the order they were found."""

    def __init__(self) -> None:
        self._faults: dict[Code, list[Fault]] = defaultdict(list)
        self._more: dict[Code, int] = defaultdict(int)
        self._notes: list[Note] = []

    def fault(self, code: Code, where: str, value: str, limit: str, fix: str | None = None) -> None:
        """`where` and `value` may be a stranger's words; without `fix` it is the code's usual one."""
        if self.full(code):
            self._more[code] += 1
        else:
            fix = MEANINGS[code].fix if fix is None else fix
            self._faults[code].append(Fault(code.value, shortened(where), shortened(value), limit, fix))

    def note(self, code: NoteCode, text: str) -> None:
        self._notes.append(Note(code.value, text))

    def full(self, code: Code) -> bool:
        """Whether further faults of this code will only be counted."""
        return len(self._faults.get(code, ())) >= SHOWN_PER_CODE

    @property
    def faults(self) -> tuple[Fault, ...]:
        found: list[Fault] = []
        for code, faults in self._faults.items():
            found += faults
            if more := self._more[code]:
                last = faults[-1]
                found.append(Fault(code.value, f"{more} more", f"{code} as above", last.limit, last.fix))
        return tuple(found)

    @property
    def notes(self) -> tuple[Note, ...]:
        return tuple(self._notes)


def shortened(text: str, limit: int = _MAX_SHOWN) -> str:
    """Printable, and no longer than the limit."""
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[: limit + 1])
    return clean if len(clean) <= limit else clean[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"


def listed(names: tuple[str, ...] | list[str], limit: int = 10) -> str:
    """Some names of strangers in one line."""
    return ", ".join(shortened(name, 60) for name in names[:limit]) + (", …" if len(names) > limit else "")
