"""What a version of vLLM has, read from its Python sources; nothing of it is imported, so a wheel for a GPU will do.

Three questions: `kind` of a name, `parameters` of a callable, `says` for a text. A name is written as
`vllm.lora.request:LoRARequest.lora_name`: module, then what is in it. A class has what its bases have, and what its
methods put on `self`.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign


class Sources:
    """A folder with the package `vllm` in it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._trees: dict[str, ast.Module | None] = {}

    def kind(self, name: str) -> str | None:
        """What it is (module, class, function, value), None where there is no such name."""
        module, _, path = name.partition(":")
        if not path:
            return "module" if self._tree(module) is not None else None
        first, _, attribute = path.partition(".")
        found = self._find(module, first)
        if found is None:
            return None
        if not attribute:
            return _kind(found[1])
        return None if (member := self._member(*found, attribute)) is None else _kind(member)

    def parameters(self, name: str) -> list[str] | None:
        """The names that a function, a method or a class's constructor takes, in order; None where it is not there."""
        module, _, path = name.partition(":")
        first, _, attribute = path.partition(".")
        found = self._find(module, first)
        if found is None:
            return None
        node = self._member(*found, attribute) if attribute else found[1]
        if isinstance(node, ast.ClassDef):
            made = self._member(found[0], node, "__init__")
            return _names(made) if isinstance(made, ast.FunctionDef) else self._fields(found[0], node)
        return _names(node) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else None

    def says(self, where: str, text: str) -> bool:
        """Whether a string of this module, or of any module below `where.*`, holds the text; or its code does."""
        paths = list(self._files(where))
        # Code first: to find strings that are written in several pieces takes a hundred times as long.
        return any(_plain(text) in _code(path) for path in paths) or any(text in _strings(path) for path in paths)

    def _files(self, where: str) -> Iterator[Path]:
        if where.endswith(".*"):
            folder = self._root.joinpath(*where[:-2].split("."))
            yield from sorted(folder.rglob("*.py"))
        else:
            yield from (path for path in self._places(where) if path.is_file())

    def _places(self, module: str) -> tuple[Path, Path]:
        path = self._root.joinpath(*module.split("."))
        return path.with_suffix(".py"), path / "__init__.py"

    def _tree(self, module: str) -> ast.Module | None:
        if module not in self._trees:
            source = next((path for path in self._places(module) if path.is_file()), None)
            self._trees[module] = None if source is None else ast.parse(source.read_text())
        return self._trees[module]

    def _find(self, module: str, name: str) -> tuple[str, ast.AST] | None:
        """Where a name of a module is defined, and by what, through all imports."""
        tree = self._tree(module)
        if tree is None:
            return None
        found: tuple[str, ast.AST] | None = None
        for node in _statements(tree.body):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if (alias.asname or alias.name) == name or alias.name == "*":
                        origin = self._origin(module, node)
                        found = self._find(origin, name if alias.name == "*" else alias.name) or found
            elif isinstance(node, Definition) and name in _defined(node):
                found = module, node  # the last one: overloads come before what they describe
        if found is None and (submodule := self._tree(f"{module}.{name}")) is not None:
            return f"{module}.{name}", submodule
        return found

    def _origin(self, module: str, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = module.split(".")
        is_package = self._places(module)[1].is_file()
        base = parts[: len(parts) - node.level + is_package]
        return ".".join([*base, node.module] if node.module else base)

    def _member(self, module: str, node: ast.AST, name: str) -> ast.AST | None:
        if not isinstance(node, ast.ClassDef):
            return None
        own = [one for one in _statements(node.body) if isinstance(one, Definition) and name in _defined(one)]
        if own:
            return own[-1]
        if name in put_on_self(node):
            return ast.Assign(targets=[], value=ast.Constant(None))
        for base in self._bases(module, node):
            if (member := self._member(*base, name)) is not None:
                return member
        return None

    def _bases(self, module: str, node: ast.ClassDef) -> Iterator[tuple[str, ast.AST]]:
        for base in node.bases:
            plain = base.value if isinstance(base, ast.Subscript) else base
            if isinstance(plain, ast.Name) and (found := self._find(module, plain.id)) and found[1] is not node:
                yield found

    def _fields(self, module: str, node: ast.ClassDef) -> list[str]:
        fields: list[str] = []
        for base_module, base in self._bases(module, node):
            if isinstance(base, ast.ClassDef):
                fields += self._fields(base_module, base)
        for one in node.body:
            if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
                fields.append(one.target.id)
        return fields


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Of a module or class, those under `if` and `try` too."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            yield from _statements(node.body)
            yield from _statements(node.orelse)
            for handler in getattr(node, "handlers", ()):
                yield from _statements(handler.body)


def _defined(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Assign):
        return {target.id for target in node.targets if isinstance(target, ast.Name)}
    if isinstance(node, ast.AnnAssign):
        return {node.target.id} if isinstance(node.target, ast.Name) else set()
    return {str(getattr(node, "name", ""))}


def put_on_self(node: ast.ClassDef) -> set[str]:
    """The attributes that a class's own methods assign."""
    return {
        one.attr
        for one in ast.walk(node)
        if isinstance(one, ast.Attribute)
        and isinstance(one.ctx, ast.Store)
        and isinstance(one.value, ast.Name)
        and one.value.id == "self"
    }


def _names(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    given = node.args
    names = [one.arg for one in (*given.posonlyargs, *given.args)]
    names += [f"*{given.vararg.arg}"] if given.vararg else []
    names += [one.arg for one in given.kwonlyargs]
    return names + ([f"**{given.kwarg.arg}"] if given.kwarg else [])


def _kind(node: ast.AST) -> str:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return "function"
    return {ast.ClassDef: "class", ast.Module: "module"}.get(type(node), "value")


@functools.cache
def _code(path: Path) -> str:
    return _plain(path.read_text())


@functools.cache
def _strings(path: Path) -> str:
    """All strings of a file, a line each, those in several pieces put together; `{}` stands for what is put in."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(one.value) if isinstance(one, ast.Constant) else "{}" for one in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return "\n".join(found)


def _plain(code: str) -> str:
    return re.sub(r"\s+", "", code)
