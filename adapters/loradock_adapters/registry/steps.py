"""The steps of an alias: where it pointed at each, and which of them the way back leads to. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from loradock_adapters.registry.splits import Split
from loradock_adapters.registry.tables import AliasRow, AliasStepRow, AliasTargetRow


@dataclass(frozen=True, slots=True)
class WayBack:
    """The nearest earlier target that can answer, None if there is none; `passed` are nearer ones that cannot."""

    step: int | None
    split: Split | None
    passed: tuple[Split, ...]


def way_back(session: Session, row: AliasRow, ready: Callable[[int], bool]) -> WayBack:
    """Where a rollback of the alias leads. `ready`: whether a version of its adapter may answer."""
    parents = {
        step: parent
        for step, parent in session.execute(
            select(AliasStepRow.step, AliasStepRow.parent).where(
                AliasStepRow.name == row.name, AliasStepRow.alias == row.alias
            )
        )
    }
    now, passed = split_at(session, row.name, row.alias, row.step), []
    step = parents[row.step]
    while step is not None:
        split = split_at(session, row.name, row.alias, step)
        if not split.parts or not all(map(ready, split.versions)):
            passed.append(split)
        elif split != now:  # to where it points now is no way back
            return WayBack(step, split, tuple(passed))
        step = parents[step]
    return WayBack(None, None, tuple(passed))


def split_at(session: Session, name: str, alias: str, step: int) -> Split:
    """Where an alias pointed at one of its steps; nowhere if the step's targets are lost."""
    rows = session.scalars(
        select(AliasTargetRow)
        .where(AliasTargetRow.name == name, AliasTargetRow.alias == alias, AliasTargetRow.step == step)
        .order_by(AliasTargetRow.version)
    )
    return Split(tuple((row.version, row.weight) for row in rows))
