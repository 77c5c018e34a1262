"""The life of a version, as an enum, and which step may follow which.

    staged ──► verified ──► ready ──► retired ──► deleted
       ▲           │          │          │           ▲
       └─ failed ◄─┴──────────┴──────────┘           └── from every state, as long as no alias needs the version

It knows no database: `versions` makes the steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class VersionState(StrEnum):
    """Only a `ready` version answers, and only to one may an alias point."""

    STAGED = "staged"  # it has a number, its bytes are in the store
    VERIFIED = "verified"  # read back from there they are the bytes that were judged
    READY = "ready"
    RETIRED = "retired"  # answers no more (410), and is still there
    FAILED = "failed"  # the reason says why; the same bytes may be registered again
    DELETED = "deleted"  # its number is never used again, its bytes may go


MAY_FOLLOW: Mapping[VersionState, frozenset[VersionState]] = MappingProxyType(
    {
        VersionState.STAGED: frozenset({VersionState.VERIFIED, VersionState.FAILED, VersionState.DELETED}),
        VersionState.VERIFIED: frozenset({VersionState.READY, VersionState.FAILED, VersionState.DELETED}),
        VersionState.READY: frozenset({VersionState.RETIRED, VersionState.FAILED, VersionState.DELETED}),
        VersionState.RETIRED: frozenset({VersionState.FAILED, VersionState.DELETED}),
        VersionState.FAILED: frozenset({VersionState.STAGED, VersionState.DELETED}),
        VersionState.DELETED: frozenset(),
    }
)
