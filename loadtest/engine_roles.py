"""Which process of a running server is which: vLLM renames its own, and the new name stands in the command line."""

from __future__ import annotations

import psutil

_ROLES = (
    ("EngineCore", "core"),
    ("Worker", "worker"),
    ("loradock_server.engine.stager", "stager"),
    ("loradock_server.engine.process", "api"),
    ("APIServer", "api"),
)


def engine_roles(serve: psutil.Process) -> dict[str, psutil.Process]:
    """The processes below a `loradock serve` by role: api, core, worker, stager. Others are left out."""
    found = {}
    for child in serve.children(recursive=True):
        line = " ".join(child.cmdline())
        role = next((role for words, role in _ROLES if words in line), None)
        if role is not None:
            found[role] = child
    return found
