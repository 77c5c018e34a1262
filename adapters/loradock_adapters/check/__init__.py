"""Judging whether an adapter can be served on a base model: every fault at once, before it is stored."""

from loradock_adapters.check.adapter import check_adapter
from loradock_adapters.check.codes import Code, NoteCode
from loradock_adapters.check.limits import Limits
from loradock_adapters.check.planned import check_planned
from loradock_adapters.faults import Fault, Note, Report

__all__ = ["Code", "Fault", "Limits", "Note", "NoteCode", "Report", "check_adapter", "check_planned"]
