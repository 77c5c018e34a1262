"""What the reports call this machine's processor."""

from __future__ import annotations

from loradock_adapters.processor import Processor


def processor() -> str:
    """Name and level of instructions, as the engine's log has them: what is fast depends on both."""
    return Processor.here().description
