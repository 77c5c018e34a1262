"""Which end-to-end tests share a server, so that xdist gives them to one process and the rest to another.

Told by the source: the processes that collect tests know fixtures, the one that deals them out knows names only.
(xdist's own marks for that do nothing under pytest 9.2, whose node ids cannot be changed.)
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parents[2]
SHARED = {"exact": "exact", "served": "exact", "server": "server", "in_bf16": "server"}
"""The session's servers by the fixtures that give them."""


class ByServer(LoadScopeScheduling):  # type: ignore[misc]  # xdist ships no types
    """One server's tests after another in one process."""

    def _split_scope(self, nodeid: str) -> str:
        path, _, test = nodeid.partition("::")
        return server_of(path, test.partition("[")[0])


def server_of(path: str, test: str) -> str:
    """The shared server that a test of this file asks for, itself or by fixtures of its file; else the file's own."""
    asked = _fixtures(path)
    wanted, seen = [test, *(name for name, (automatic, _) in asked.items() if automatic)], set[str]()
    while wanted:
        name = wanted.pop(0)
        if name in seen:
            continue
        seen.add(name)
        # A file's own fixture of that name is another server.
        if name in SHARED and (name not in asked or name == "served"):
            return SHARED[name]
        wanted += asked[name][1] if name in asked else []
    return path


@cache
def _fixtures(path: str) -> dict[str, tuple[bool, list[str]]]:
    """A file's functions: whether all of its tests use it unasked, and what it asks for."""
    found = {}
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            marks = " ".join(map(ast.unparse, node.decorator_list))
            found[node.name] = ("autouse=True" in marks, [argument.arg for argument in node.args.args])
    return found
