"""Names, versions, aliases, API keys and who changed them, in a SQL database."""

from loradock_adapters.registry.audit import Action, Actor, AuditEvent
from loradock_adapters.registry.catalogue import (
    AdapterRecord,
    AliasRecord,
    Catalogue,
    Route,
    VersionFacts,
    VersionRecord,
)
from loradock_adapters.registry.conditions import IfMatch
from loradock_adapters.registry.evaluations import EvaluationRecord, Gate
from loradock_adapters.registry.key_ring import Held, KeyRecord, KeyRing
from loradock_adapters.registry.keys import KeyTable
from loradock_adapters.registry.limit_counters import BucketTaken, DayTaken, LimitTable, Running, Together
from loradock_adapters.registry.operations import Begun, Claim, Operation, OperationState, OperationTable, Sign
from loradock_adapters.registry.registry import Registry
from loradock_adapters.registry.splits import Split
from loradock_adapters.registry.states import VersionState
from loradock_adapters.registry.usage import UsageLedger
from loradock_adapters.registry.versions import Staged

__all__ = [
    "Action",
    "Actor",
    "AdapterRecord",
    "AliasRecord",
    "AuditEvent",
    "Begun",
    "BucketTaken",
    "Catalogue",
    "Claim",
    "DayTaken",
    "EvaluationRecord",
    "Gate",
    "Held",
    "IfMatch",
    "KeyRecord",
    "KeyRing",
    "KeyTable",
    "LimitTable",
    "Operation",
    "OperationState",
    "OperationTable",
    "Registry",
    "Route",
    "Running",
    "Sign",
    "Split",
    "Staged",
    "Together",
    "UsageLedger",
    "VersionFacts",
    "VersionRecord",
    "VersionState",
]
