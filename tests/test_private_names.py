"""Names that start with an underscore in other people's packages are used in the modules that exist for it, and nowhere
else: a bound of pyproject.toml is true for public names, and for private ones only where a test looks for them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Each with a test of all names in it.
MAY = {
    "server/loradock_server/engine/vllm_compat.py",  # vLLM: tests/server/engine/vllm_contract
    "server/loradock_server/engine/kernels/operator.py",  # torch: tests/server/engine/kernels/test_operator.py
    "adapters/loradock_adapters/base_modules.py",  # transformers: tests/adapters/test_base_modules.py builds by them
    "server/loradock_server/gateway/uvicorn_names.py",  # uvicorn: tests/server/gateway/test_uvicorn_names.py
}
# Public in spite of the underscore: named tuples, and leaving a process (atexit's, as multiprocessing does).
PUBLIC = {"_asdict", "_replace", "_fields", "_make", "_exit", "_run_exitfuncs"}
_PRIVATE_MODULE = re.compile(r"\._(?!_)")


def test_no_other_module_uses_a_private_name_of_another_package() -> None:
    found = []
    for folder in ("server", "adapters/loradock_adapters", "loadtest"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            place = str(path.relative_to(ROOT))
            if place not in MAY:
                found += [f"{place}:{line}: {name}" for line, name in foreign(ast.parse(path.read_text()))]
    assert found == []


def test_the_search_would_find_one() -> None:
    tree = ast.parse(
        "from a._b import C\nimport a._b\nfrom a import _b\nclass D:\n    def f(self, x):\n        self._g = x._h\n"
    )
    assert sorted(name for _, name in foreign(tree)) == ["_h", "a._b", "a._b", "a._b"]
    assert list(foreign(ast.parse("class D:\n    def f(self, other):\n        self._g = other._g\n"))) == []


def foreign(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Private names that this module uses and does not make: imported ones, and attributes of others' objects."""
    own = {
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            own.add(node.target.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value):
            own.add(node.attr)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, one.name) for one in node.names if _PRIVATE_MODULE.search(one.name))
        elif isinstance(node, ast.ImportFrom) and not node.level and not (node.module or "").startswith("loradock"):
            names = [node.module or ""] if _PRIVATE_MODULE.search(node.module or "") else []
            names += [f"{node.module}.{one.name}" for one in node.names if _is_private(one.name)]
            yield from ((node.lineno, name) for name in names)
        elif isinstance(node, ast.Attribute) and _is_foreign(node, own):
            yield node.lineno, node.attr


def _is_foreign(node: ast.Attribute, own: set[str]) -> bool:
    return _is_private(node.attr) and not _is_self(node.value) and node.attr not in own | PUBLIC


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")
