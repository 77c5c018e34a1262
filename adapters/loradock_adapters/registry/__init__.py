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
from loradock_adapters.registry.operations import Begun, Claim, Operation, OperationState, OperationTable, Sign
from loradock_adapters.registry.registry import Registry
from loradock_adapters.registry.splits import Split
from loradock_adapters.registry.states import VersionState
from loradock_adapters.registry.versions import Staged

__all__ = [
    "Action",
    "Actor",
    "AdapterRecord",
    "AliasRecord",
    "AuditEvent",
    "Begun",
    "Catalogue",
    "Claim",
    "EvaluationRecord",
    "Gate",
    "Held",
    "IfMatch",
    "KeyRecord",
    "KeyRing",
    "KeyTable",
    "Operation",
    "OperationState",
    "OperationTable",
    "Registry",
    "Route",
    "Sign",
    "Split",
    "Staged",
    "VersionFacts",
    "VersionRecord",
    "VersionState",
]
