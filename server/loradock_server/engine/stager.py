"""A process of low priority that reads, verifies and lays out adapters beside the engine, which must not feel it.

In the engine's own process the same work would hold the interpreter's lock while tokens wait to go out. One question
and one answer at a time, as JSON lines on its standard input and output; the end of its input ends it. It sees the
store and the base model's shapes, and no vLLM.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from loradock_adapters.base_model import BaseModel
from loradock_adapters.check import Limits
from loradock_adapters.errors import AdapterError
from loradock_adapters.peft_folder import WEIGHTS_FILE
from loradock_adapters.signing import TrustedKey
from loradock_adapters.store import open_store

from .artifacts import StoredArtifacts
from .residency import AdapterGone, AdapterUnfit, ResidencyError, StoreUnreachable
from .signatures import Signatures

NICENESS = 10  # a tenth of the processor beside the engine when both want it, all of it when nobody else does
PATIENCE_SECONDS = 300.0


class StagerGone(ResidencyError):
    """The process that reads adapters died or does not answer; 503, worth a retry with its successor."""

    status = 503
    code = "adapter_unavailable"


@dataclass(frozen=True, slots=True)
class StagerOrder:
    """What the process is told when it starts."""

    artifacts: str  # a folder, or s3://bucket/prefix
    base: str
    max_rank: int
    max_bytes: int
    dtype: str = "auto"
    require_signature: bool = False
    trusted_keys: tuple[str, ...] = ()
    artifacts_cache: str = ""  # needed for a bucket
    artifacts_cache_bytes: int = 0


class StagedElsewhere:
    """An adapter laid out by the other process. `path` can be opened by this user's processes until `close`."""

    def __init__(self, stager: Stager, path: Path, size_bytes: int) -> None:
        self._stager = stager
        self._closed = False
        self.path = path
        self.size_bytes = size_bytes

    def close(self) -> None:
        """Let the memory be given back, before the next adapter is laid out. Idempotent."""
        if not self._closed:
            self._closed = True
            self._stager.forget(self.path)


class Stager:
    """The engine's end. Blocking, safe to call from several threads. The process starts with `start` or the first call.

    It is residency.Artifacts. Raises StagerGone when the process died or stayed silent, twice in a row.
    """

    def __init__(
        self,
        order: StagerOrder,
        *,
        signatures: Signatures | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._order = order
        self._signatures = signatures or Signatures()
        self._patience = patience_seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._done_with: list[str] = []  # list.append is atomic: `forget` never waits for an adapter being read

    def start(self) -> None:
        """Begin to start the process, so that the first adapter need not wait for that."""
        with self._lock:
            self._running()

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def fetch(self, digest: str) -> Path:
        return Path(self._ask({"fetch": digest, "signatures": self._signatures.of(digest)})["folder"])

    def stage(self, folder: Path, plan: Mapping[str, Any], scales: Mapping[str, float]) -> StagedElsewhere:
        """`staging.stage` over there; `plan` as Plan.to_plain gives it. Raises AdapterUnfit for what does not fit."""
        answer = self._ask({"stage": str(folder / WEIGHTS_FILE), "plan": plan, "scales": dict(scales)})
        return StagedElsewhere(self, Path(answer["path"]), answer["size_bytes"])

    def forget(self, path: Path) -> None:
        self._done_with.append(str(path))

    def _ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        with self._lock:
            done_with, self._done_with = self._done_with, []
            line = json.dumps({**question, "done_with": done_with})
            answer = self._exchange(line) or self._exchange(line)
        if answer is None:
            raise StagerGone("the process that reads adapters died, or does not answer; retry")
        match answer.pop("error", None):
            case None:
                return answer
            case "gone":
                raise AdapterGone(answer["text"])
            case "unreachable":
                raise StoreUnreachable(answer["text"])
            case "unfit":
                raise AdapterUnfit(answer["text"])
            case _:
                raise ResidencyError(answer["text"])

    def _exchange(self, line: str) -> dict[str, Any] | None:
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            process.stdin.write(line + "\n")
            process.stdin.flush()
            if select.select([process.stdout], [], [], self._patience)[0] and (answer := process.stdout.readline()):
                found: dict[str, Any] = json.loads(answer)
                return found
        self._end()
        return None

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "loradock_server.engine.stager", json.dumps(asdict(self._order))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()  # it changes nothing that outlives it
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()
        process.wait()


def main() -> None:
    """The other end."""
    os.nice(NICENESS)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the engine drains first; the end of the input ends this
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints, prints into the log
    order = StagerOrder(**json.loads(sys.argv[1]))
    artifacts = StoredArtifacts(
        open_store(order.artifacts, Path(order.artifacts_cache), cache_bytes=order.artifacts_cache_bytes),
        BaseModel.read(Path(order.base)),
        Limits(
            max_rank=order.max_rank,
            max_bytes=order.max_bytes,
            dtype=order.dtype,
            require_signature=order.require_signature,
            trusted_keys=tuple(TrustedKey.parse(text) for text in order.trusted_keys),
        ),
    )
    serve(artifacts, sys.stdin, answers)


def serve(artifacts: StoredArtifacts, questions: TextIO, answers: TextIO) -> None:
    """Answer until the questions end."""
    import torch

    from .staging import Plan, Staged, stage

    torch.set_num_threads(1)
    held: dict[str, Staged] = {}
    for line in questions:
        question = json.loads(line)
        for path in question["done_with"]:
            if staged := held.pop(path, None):
                staged.close()
        try:
            if digest := question.get("fetch"):
                answer: dict[str, Any] = {"folder": str(artifacts.fetch(digest, question["signatures"]))}
            else:
                scales = question["scales"]
                staged = stage(Path(question["stage"]), Plan.from_plain(question["plan"]), scales.__getitem__)
                held[str(staged.path)] = staged
                answer = {"path": str(staged.path), "size_bytes": staged.size_bytes}
        except AdapterGone as error:
            answer = {"error": "gone", "text": str(error)}
        except StoreUnreachable as error:
            answer = {"error": "unreachable", "text": str(error)}
        except (AdapterUnfit, AdapterError, ValueError) as error:
            answer = {"error": "unfit", "text": str(error)}
        except Exception as error:  # noqa: BLE001  # the boundary of a process
            answer = {"error": "failed", "text": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
