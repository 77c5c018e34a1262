"""Fill a registry with many adapters at once: one is registered as the gateway does it, and its rows are copied.

What a copy says is what the registry itself wrote, with another name and another digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Table, create_engine, insert, make_url, select

from loradock_adapters.registry import Actor, Registry, VersionFacts
from loradock_adapters.registry.tables import (
    AdapterRow,
    AliasRow,
    AliasStepRow,
    AliasTargetRow,
    AuditRow,
    VersionRow,
)

# In the order of the foreign keys.
_TABLES = (AdapterRow, VersionRow, AliasStepRow, AliasTargetRow, AliasRow, AuditRow)
_ROWS_AT_ONCE = 2000
_ME = Actor("bench")


def name_of(number: int) -> str:
    return f"adapter-{number:06}"


def seed(url: str, adapters: int, versions: int, base_digest: str) -> None:
    """Make `adapters` names with `versions` each, the last one live."""
    registry = Registry.open(url)
    first = name_of(0)
    for number in range(1, versions + 1):
        facts = VersionFacts(
            digest=_digest(first, number),
            size_bytes=4_900_000,
            rank=16,
            target_modules=("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"),
            base_digest=base_digest,
            source="upload",
            manifest={"recipe": {"name": first, "steps": 300, "learning_rate": 2e-4}, "loss": [3.1, 1.2, 0.9]},
        )
        ref = registry.versions.stage(first, facts, by=_ME).ref
        registry.versions.verify(ref, by=_ME)
        registry.versions.make_ready(ref, by=_ME)
    registry.close()
    engine = create_engine(make_url(url))
    with engine.begin() as connection:
        for table in (row.__table__ for row in _TABLES):
            assert isinstance(table, Table)
            rows = [dict(row) for row in connection.execute(select(table)).mappings()]
            batch: list[dict[str, Any]] = []
            for number in range(1, adapters):
                batch += _copies(rows, name_of(number))
                if len(batch) >= _ROWS_AT_ONCE or number == adapters - 1:
                    connection.execute(insert(table), batch)
                    batch = []
    engine.dispose()


def _copies(rows: list[dict[str, Any]], name: str) -> Iterator[dict[str, Any]]:
    for row in rows:
        copy = {**row, ("adapter" if "adapter" in row else "name"): name}
        copy.pop("id", None)  # of an audit event: the database counts
        if "digest" in copy:
            copy["digest"] = _digest(name, copy["number"])
        yield copy


def _digest(name: str, number: int) -> str:
    return hashlib.sha256(f"{name}@{number}".encode()).hexdigest()
