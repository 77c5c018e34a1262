"""llama.cpp as a CPU user has it: its own server, built for this processor, with the base and the adapters as GGUF.

Its sources come in the package llama-cpp-python, which CONTRIBUTING.md names; what is made of them lies in a folder of
its own and is made once. The conversions are llama.cpp's own scripts, run by this Python.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest.gateway.servers import BenchError, free_port, process, wait_for
from loadtest.serving.fleet import Adapters, Endpoint, Fleet, Say
from loradock_adapters.base_model import BaseModel

VERSION = "0.3.36"
REQUIREMENT = (
    f"llama-cpp-python=={VERSION} --hash=sha256:832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
)
FOLDER = Path("var/bench/rivals/llama.cpp")
PARALLEL = 16  # requests at a time, as many as there are clients
BUILD = (
    *("-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", "-DGGML_NATIVE=ON", "-DLLAMA_OPENSSL=OFF"),
    *("-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_APP=OFF"),
    *("-DLLAMA_BUILD_UI=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF"),
)
# Every adapter in one process: what the script imports takes longer than the work.
CONVERT = """
import os, runpy, sys
script, base, *pairs = sys.argv[1:]
sys.path.insert(0, os.path.dirname(script))  # what it imports lies beside it
for folder, path in zip(pairs[::2], pairs[1::2]):
    sys.argv = [script, folder, "--base", base, "--outtype", "f16", "--outfile", path + ".part"]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as left:
        if left.code:
            raise
    os.rename(path + ".part", path)
"""


@dataclass(frozen=True, slots=True)
class LlamaCpp:
    """llama.cpp in a folder: `source` and the programs that were built from it."""

    folder: Path

    @property
    def source(self) -> Path:
        return self.folder / f"llama_cpp_python-{VERSION}/vendor/llama.cpp"

    def program(self, name: str) -> Path:
        return self.folder / "build/bin" / name

    def base(self, base: BaseModel, weights: str) -> Path:
        """The base as GGUF, in `f16` or `q8_0`; converted once. Raises BenchError."""
        models = self.folder / "models"
        models.mkdir(exist_ok=True)
        f16 = models / f"{base.digest[:16]}-f16.gguf"
        if not f16.exists():
            script = [sys.executable, str(self.source / "convert_hf_to_gguf.py"), str(base.folder)]
            _made([*script, "--outtype", "f16", "--outfile"], f16)
        if weights == "f16":
            return f16
        quantised = models / f"{base.digest[:16]}-{weights}.gguf"
        if not quantised.exists():
            _made([str(self.program("llama-quantize")), str(f16)], quantised, weights)
        return quantised

    def adapters(self, base: BaseModel, adapters: Adapters) -> list[Path]:
        """Each adapter as GGUF in f16; the same bytes are converted once. Raises BenchError."""
        models = self.folder / "models"
        models.mkdir(exist_ok=True)
        paths = [models / f"{_digest(folder)}.gguf" for _, folder in adapters]
        wanted = [(folder, path) for (_, folder), path in zip(adapters, paths, strict=True) if not path.exists()]
        if wanted:
            script = str(self.source / "convert_lora_to_gguf.py")
            pairs = [str(each) for pair in wanted for each in pair]
            _run([sys.executable, "-c", CONVERT, script, str(base.folder), *pairs])
        return paths


def installed(folder: Path = FOLDER, say: Say = lambda _: None) -> LlamaCpp:
    """llama.cpp, fetched and built on first use: five to ten minutes of two cores. Raises BenchError."""
    found = LlamaCpp(folder.resolve())
    if found.program("llama-server").exists() and found.program("llama-quantize").exists():
        return found
    for tool in ("cmake", "ninja", "c++"):
        if shutil.which(tool) is None:
            raise BenchError(f"llama.cpp is built from source, which needs {tool}: install cmake, ninja-build and g++")
    found.folder.mkdir(parents=True, exist_ok=True)
    if not found.source.exists():
        say(f"fetching llama-cpp-python {VERSION}, which holds llama.cpp's sources")
        _fetch(found.folder)
    say("building llama.cpp for this processor: some minutes, once")
    build = found.folder / "build"
    _run(["cmake", "-G", "Ninja", "-S", str(found.source), "-B", str(build), *BUILD])
    jobs = str(len(os.sched_getaffinity(0)))
    _run(["cmake", "--build", str(build), "--parallel", jobs, "--target", "llama-server", "llama-quantize"])
    return found


def way(weights: str) -> Callable[[Path, Adapters, Say], contextlib.AbstractContextManager[Fleet]]:
    """One llama-server with all adapters, the base in `f16` or `q8_0`."""

    @contextlib.contextmanager
    def serve(base: Path, adapters: Adapters, say: Say) -> Iterator[Fleet]:
        llama = installed(say=say)
        say("converting the base and the adapters")
        model = BaseModel.read(base)
        command = server(llama, llama.base(model, weights), llama.adapters(model, adapters))
        say(f"starting llama-server with {len(adapters)} adapters")
        port = free_port()
        with tempfile.TemporaryDirectory(prefix="loradock-llama-") as folder:
            log, began = Path(folder) / "llama.log", time.monotonic()
            with process([*command, "--port", str(port)], {}, log) as running:
                url = f"http://127.0.0.1:{port}"
                wait_for(f"{url}/health", running, log)
                yield Fleet(
                    tuple(Endpoint(url, name, body=lora(number)) for number, (name, _) in enumerate(adapters)),
                    (running.pid,),
                    time.monotonic() - began,
                )

    return serve


def server(llama: LlamaCpp, base: Path, adapters: Sequence[Path], *, context: int = 11_520) -> list[str]:
    """Its command line but for the port. `context` tokens take 265 MB in f16 for SmolLM2-135M: what the others have.

    The cache of prompts in main memory, up to 8 GiB, is off: no prompt comes twice here, and it would only fill.
    """
    threads = len(os.sched_getaffinity(0))
    return [
        *(str(llama.program("llama-server")), "--model", str(base)),
        *(() if not adapters else ("--lora", ",".join(str(path) for path in adapters))),
        *("--lora-init-without-apply", "--host", "127.0.0.1", "--threads", str(threads)),
        *("--parallel", str(PARALLEL), "--ctx-size", str(context), "--kv-unified", "--cache-ram", "0"),
    ]


def lora(number: int) -> dict[str, object]:
    """What a request says to be answered by the adapter of that number, and no other."""
    return {"lora": [{"id": number, "scale": 1.0}]}


def _fetch(folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="loradock-fetch-") as work:
        pins = Path(work) / "pins.txt"
        pins.write_text(REQUIREMENT + "\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=:all:"]
        _run([*pip, "--require-hashes", "--dest", work, "--requirement", str(pins)])
        with tarfile.open(next(Path(work).glob("*.tar.gz"))) as packed:
            packed.extractall(folder, filter="data")


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _made(command: list[str], path: Path, *after: str) -> None:
    """Run it with the path of what it makes; half a file is never left under that name."""
    partly = path.with_name(f"partly-{path.name}")
    _run([*command, str(partly), *after])
    partly.rename(path)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{' '.join(command[:4])} … ended with status {done.returncode}:\n{done.stderr[-3000:]}")
