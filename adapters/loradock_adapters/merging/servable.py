"""The server's own check, of whatever rank can be written: what could not be served is not merged either."""

from __future__ import annotations

from pathlib import Path

from loradock_adapters.base_model import BaseModel
from loradock_adapters.check import Limits, check_adapter
from loradock_adapters.faults import Report

HIGHEST_RANK = 512


def require_servable(adapter: Path, base: BaseModel) -> Report:
    """The report of an adapter without faults. Raises AdapterRejected, AdapterUnreadable."""
    report = check_adapter(adapter, base, Limits(max_rank=HIGHEST_RANK))
    report.raise_if_faulty()
    return report
