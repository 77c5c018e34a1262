"""What a check found: faults, notes and the facts it measured. Plain values; it judges nothing itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from loradock_adapters.errors import AdapterRejected


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: `code` for programs, then where, what was found, what is allowed, the fix."""

    code: str
    where: str
    value: str
    limit: str
    fix: str

    @property
    def message(self) -> str:
        return f"{self.where}: {self.value}; {self.limit}; {self.fix}"

    def as_dict(self) -> dict[str, str]:
        return {**asdict(self), "message": self.message}


@dataclass(frozen=True, slots=True)
class Note:
    """One thing that is worth knowing and no reason to refuse: `code` for programs, `text` for people."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Report:
    """The whole judgement. Numbers that could not be read are 0; sizes are in bytes."""

    faults: tuple[Fault, ...]
    notes: tuple[Note, ...]
    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    parameters: int
    size_bytes: int

    @property
    def ok(self) -> bool:
        return not self.faults

    @property
    def complete(self) -> bool:
        """Whether everything could be read: where not, the faults that are missing prove nothing."""
        return all(fault.code != "unreadable" for fault in self.faults)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The notes' texts."""
        return tuple(note.text for note in self.notes)

    def raise_if_faulty(self) -> None:
        """Raise AdapterRejected, which carries this report, unless it is clean."""
        if self.faults:
            raise AdapterRejected(self)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON takes it."""
        return {
            "ok": self.ok,
            "faults": [fault.as_dict() for fault in self.faults],
            "warnings": list(self.warnings),
            "notes": [asdict(note) for note in self.notes],
            "rank": self.rank,
            "alpha": self.alpha,
            "target_modules": list(self.target_modules),
            "parameters": self.parameters,
            "size_bytes": self.size_bytes,
        }
