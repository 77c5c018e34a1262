"""Which of vLLM's model classes take adapters, read out of its Python sources: nothing of vLLM is imported.

`python -m loradock_server.engine.vllm_sources FOLDER…` writes, for the `vllm` folders of several versions, the table
that loradock_adapters.servable reads where no vLLM is at hand. Knows how vLLM writes its registry and its classes; what
it cannot follow it leaves out.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_MODELS = "model_executor/models"
_DRAFTS = re.compile("Eagle|MTP|Draft|Medusa|DSpark|DFlash|ExtractHidden")  # models that help others; no bases


def classes_without_lora(vllm: Path) -> list[str]:
    """Architectures, as config.json names them, that this vLLM serves without adapters. `vllm`: its package folder."""
    models = ((name, place) for name, place in _registered(vllm) if not _DRAFTS.search(name))
    found = ((name, _takes_lora(vllm, *place, frozenset())) for name, place in models)
    return sorted({name for name, takes in found if takes is False})


def version_of(vllm: Path) -> str:
    """Major and minor version, such as 0.32. Raises ValueError where it is not written."""
    found = re.search(r"""version = ['"](\d+\.\d+)\.""", (vllm / "_version.py").read_text(encoding="utf-8"))
    if found is None:
        raise ValueError(f"{vllm / '_version.py'} has no version")
    return found[1]


def _registered(vllm: Path) -> Iterator[tuple[str, tuple[Path, str]]]:
    """The registry's architectures, with the file and the name of each one's class."""
    for node in _parsed(vllm / _MODELS / "registry.py").body:
        value = getattr(node, "value", None)
        if not isinstance(value, ast.Dict):
            continue
        for key, entry in zip(value.keys, value.values, strict=True):
            match key, entry:
                case ast.Constant(str(name)), ast.Tuple(elts=[ast.Constant(str(module)), ast.Constant(str(model))]):
                    if (
                        path := _source(vllm, vllm / _MODELS / "registry.py", 0 if "." in module else 1, module)
                    ) is not None:
                        yield name, (path, model)


def _takes_lora(vllm: Path, path: Path, name: str, seen: frozenset[tuple[Path, str]]) -> bool | None:
    """Whether the class `name` of that file has vLLM's mark of adapters; None where it is not found."""
    if (path, name) in seen:
        return None
    seen |= {(path, name)}
    for node in ast.walk(_parsed(path)):
        match node:
            case ast.ClassDef(name=own) if own == name:
                said = _says(node)
                if said is not None:
                    return said
                parents = [_takes_lora(vllm, path, parent, seen) for parent in _parents(node)]
                return any(parents)
            case ast.Assign(targets=[ast.Name(own)]) if own == name:  # Base = as_embedding_model(Model)
                if any(_takes_lora(vllm, path, parent, seen) for parent in _names(node.value)):
                    return True
            case ast.ImportFrom():
                for one in node.names:
                    if name == (one.asname or one.name):
                        if one.name == "SupportsLoRA":
                            return True
                        source = _source(vllm, path, node.level, node.module or "")
                        return None if source is None else _takes_lora(vllm, source, one.name, seen)
    return None


def _says(node: ast.ClassDef) -> bool | None:
    """What a class body sets `supports_lora` to."""
    for line in node.body:
        match line:
            case ast.Assign(targets=[ast.Name("supports_lora")], value=ast.Constant(bool(value))):
                return value
            case ast.AnnAssign(target=ast.Name("supports_lora"), value=ast.Constant(bool(value))):
                return value
    return None


def _parents(node: ast.ClassDef) -> Iterator[str]:
    for base in node.bases:
        yield from _names(base)


def _names(value: ast.AST) -> Iterator[str]:
    return (part.id for part in ast.walk(value) if isinstance(part, ast.Name))


def _source(vllm: Path, importer: Path, level: int, module: str) -> Path | None:
    """The file of a module, as the file `importer` imports it; None outside vLLM."""
    if level:
        start = importer.parents[level - 1]
    elif module.startswith("vllm."):
        start, module = vllm, module.removeprefix("vllm.")
    else:
        return None
    path = start.joinpath(*module.split(".")) if module else start
    return next((one for one in (path.with_suffix(".py"), path / "__init__.py") if one.is_file()), None)


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def main() -> None:
    """Write the table of the folders that are the arguments."""
    table = {version_of(vllm): classes_without_lora(vllm) for vllm in map(Path, sys.argv[1:])}
    sys.stdout.write(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
