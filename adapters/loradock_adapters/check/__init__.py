"""Judging whether an adapter can be served on a base model: every fault at once, before it is stored."""

from loradock_adapters.check.adapter import check_adapter
from loradock_adapters.check.limits import Limits
from loradock_adapters.faults import Fault, Report

__all__ = ["Fault", "Limits", "Report", "check_adapter"]
