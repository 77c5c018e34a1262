"""Writing an adapter anew where a mechanical repair is exact: same numbers, or the same B·A by PEFT's own method."""

from loradock_adapters.repair.repair import Repair, repair

__all__ = ["Repair", "repair"]
