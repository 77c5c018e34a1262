"""Names, versions, aliases and API keys, in a SQL database."""

from loradock_adapters.registry.catalogue import AdapterRecord, Catalogue, VersionFacts, VersionRecord
from loradock_adapters.registry.keys import SCOPES, KeyRecord, KeyTable
from loradock_adapters.registry.registry import Registration, Registry

__all__ = [
    "SCOPES",
    "AdapterRecord",
    "Catalogue",
    "KeyRecord",
    "KeyTable",
    "Registration",
    "Registry",
    "VersionFacts",
    "VersionRecord",
]
