"""Every exception of the adapters side, so that a caller can map classes instead of texts.

    LoraDockError
    ├── AdapterError
    │   ├── InvalidName           (ValueError)
    │   ├── AdapterRejected       (ValueError)   .report
    │   ├── AdapterUnreadable                    .where
    │   │   └── AdapterMalformed
    │   ├── RepairRefused
    │   ├── BadSigningKey         (ValueError)
    │   ├── SourceRefused                        .value .limit .fix
    │   │   ├── SourceInvalid     (ValueError)
    │   │   ├── SourceForbidden
    │   │   ├── SourceMissing     (LookupError)
    │   │   │   └── DigestUnknown
    │   │   ├── SourceTooLarge
    │   │   ├── ArchiveRefused    (ValueError)
    │   │   └── SourceUnavailable
    │   ├── AdapterNotFound       (LookupError)
    │   │   └── VersionNotFound
    │   │       ├── AliasNotFound
    │   │       └── EvaluationNotFound
    │   ├── InvalidSplit          (ValueError)
    │   ├── InvalidSettings       (ValueError)   .faults
    │   ├── InvalidEvaluation     (ValueError)
    │   ├── InvalidLimits         (ValueError)   .faults
    │   ├── VersionRetired
    │   ├── AdapterConflict
    │   │   ├── GateRefused                      .objections
    │   │   ├── VersionInUse
    │   │   └── AdapterExists
    │   └── ChangedMeanwhile                     .revision .expected .current
    ├── BackupError
    ├── StoreError
    │   ├── BlobMissing           (LookupError)
    │   └── BlobCorrupt
    ├── RegistryError
    │   ├── KeyNotFound           (LookupError)
    │   ├── KeyConflict
    │   ├── OperationNotFound     (LookupError)
    │   └── ClaimReused
    └── BaseModelError

It knows no HTTP status: the gateway's table turns a class into one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loradock_adapters.faults import Fault, Report
    from loradock_adapters.promotion_gate import Objection


class LoraDockError(Exception):
    """Anything LoRADock raises on purpose; the message carries the value, the limit and the fix."""


class AdapterError(LoraDockError):
    """Something is wrong with an adapter or with its name."""


class InvalidName(AdapterError, ValueError):
    """A name, alias or version is not spelt as the rules demand; seen by whoever chose it."""


class AdapterRejected(AdapterError, ValueError):
    """An adapter was judged unfit to be served; seen by whoever registers it. `report` lists every fault."""

    def __init__(self, report: Report) -> None:
        self.report = report
        count = len(report.faults)
        lines = "".join(f"\n  - {fault.message}" for fault in report.faults)
        super().__init__(f"the adapter cannot be served, {count} fault{'s' * (count != 1)}:{lines}")


class AdapterUnreadable(AdapterError):
    """A file of an adapter is missing or cannot be read; `where` names the file (or tensor)."""

    def __init__(self, message: str, *, where: str) -> None:
        self.where = where
        super().__init__(f"{where}: {message}")


class AdapterMalformed(AdapterUnreadable):
    """A file of an adapter could be read, and is not what it should be."""


class RepairRefused(AdapterError):
    """A repair of an adapter cannot be done as asked; seen by whoever asked for it."""


class BadSigningKey(AdapterError, ValueError):
    """A private key cannot be used for signing; seen by whoever signs."""


class SourceRefused(AdapterError):
    """An adapter's bytes cannot be had from where they were said to be; seen by whoever registers or checks it.

    `value` is what was found, `limit` the rule it breaks, `fix` what to do; the message is all three.
    """

    def __init__(self, value: str, limit: str, fix: str) -> None:
        self.value = value
        self.limit = limit
        self.fix = fix
        super().__init__("; ".join(part for part in (value, limit, fix) if part))


class SourceInvalid(SourceRefused, ValueError):
    """The string names no source."""


class SourceForbidden(SourceRefused):
    """The operator has not opened this place."""


class SourceMissing(SourceRefused, LookupError):
    """There is nothing, or no adapter, at the source."""


class DigestUnknown(SourceMissing):
    """No bytes with this digest are here; whoever has them uploads them."""


class SourceTooLarge(SourceRefused):
    """More bytes or files than allowed."""


class ArchiveRefused(SourceRefused, ValueError):
    """An archive is damaged, or made to do harm."""


class SourceUnavailable(SourceRefused):
    """The other side did not answer, failed, or was too slow; trying again may help."""


class AdapterNotFound(AdapterError, LookupError):
    """No adapter has this name; seen by clients as 404 model_not_found."""


class VersionNotFound(AdapterNotFound):
    """The adapter exists, this version or alias of it does not; seen by clients as 404 too."""


class AliasNotFound(VersionNotFound):
    """The adapter exists, this alias of it does not."""


class EvaluationNotFound(VersionNotFound):
    """The version exists, this evaluation of it does not."""


class InvalidSplit(AdapterError, ValueError):
    """An alias cannot point like this; seen by whoever sets it."""


class InvalidSettings(AdapterError, ValueError):
    """What is said of an adapter or a key makes no sense; seen by whoever says it. `faults` has all that is wrong."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        self.faults = faults
        super().__init__("; ".join(f"{fault.where}: {fault.value}: {fault.limit}" for fault in faults))


class InvalidEvaluation(AdapterError, ValueError):
    """What is said to be an evaluation is none; seen by whoever attaches it."""


class InvalidLimits(AdapterError, ValueError):
    """What is said to limit a key makes no sense; seen by whoever says it. `faults` has all that is wrong."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        self.faults = faults
        super().__init__("; ".join(fault.message for fault in faults))


class VersionRetired(AdapterError):
    """The version was taken out of service; seen by clients as 410 adapter_retired."""


class AdapterConflict(AdapterError):
    """What is asked for does not fit the state that a version or an alias is in."""


class GateRefused(AdapterConflict):
    """The promotion gate keeps a version from going live; seen by whoever promotes. `objections` has the numbers."""

    def __init__(self, objections: tuple[Objection, ...]) -> None:
        self.objections = objections
        told = "; ".join(f"{objection.version}: {objection.text}" for objection in objections)
        super().__init__(
            f"the promotion gate (LORADOCK_PROMOTION_GATE) refuses it: {told}; attach a better evaluation, or promote "
            "with --force and a reason"
        )


class VersionInUse(AdapterConflict):
    """An alias points to the version; seen by whoever wants to retire or delete it."""


class AdapterExists(AdapterConflict):
    """The name is taken already; seen by whoever wants to create it."""


class ChangedMeanwhile(AdapterError):
    """Somebody else changed what was to be changed; `revision` and `current` are what is there, None for nothing.

    `expected` are the revisions that would have done, None for any.
    """

    def __init__(
        self,
        what: str,
        revision: int | None,
        current: Mapping[str, Any] | None,
        expected: Collection[int] | None = None,
    ) -> None:
        self.revision = revision
        self.expected = None if expected is None else sorted(expected)
        self.current = current
        there = "it is gone" if revision is None else f"it is at revision {revision} now"
        seen = f"you saw revision {', '.join(map(str, self.expected))}, " if self.expected else ""
        super().__init__(f"{what} was changed by somebody else: {seen}{there}; look at it and try again")


class BackupError(LoraDockError):
    """A backup could not be made or brought back; seen by the operator."""


class StoreError(LoraDockError):
    """The artifact store could not be read or written; seen by the operator."""


class BlobMissing(StoreError, LookupError):
    """The store has nothing under this digest."""


class BlobCorrupt(StoreError):
    """The bytes under this digest are not the bytes it was named after."""


class RegistryError(LoraDockError):
    """The registry's database could not be opened, read or written, or was asked for the impossible."""


class KeyNotFound(RegistryError, LookupError):
    """No API key has this id."""


class KeyConflict(RegistryError):
    """What is asked for does not fit the state that a key is in, or would lock every administrator out."""


class OperationNotFound(RegistryError, LookupError):
    """No operation has this id, or not any more."""


class ClaimReused(RegistryError):
    """An idempotency key stands for one request and came with another."""


class BaseModelError(LoraDockError):
    """The base model's folder could not be understood; seen by the operator at start."""
