"""pass@1: a user's command looks at an answer, and its exit code says whether it is good.

The command is run where this program runs, without a shell and without the keys in its environment, and killed with all
its children when its time is over. What it makes of an answer, such as running it, is its own business.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loradock_adapters.evaluating.errors import CannotEvaluate

_SECRET = ("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL")


@dataclass(frozen=True, slots=True)
class Command:
    """`words` with `{answer}`, `{wanted}` and `{question}` standing for files; without `{answer}` it comes on stdin."""

    words: tuple[str, ...]
    seconds: float

    @classmethod
    def read(cls, text: str, seconds: float) -> Command:
        """Raises CannotEvaluate for something that a shell could not divide into words either."""
        try:
            words = tuple(shlex.split(text))
        except ValueError as error:
            raise CannotEvaluate(f"the command {text[:80]!r} cannot be read: {error}") from error
        if not words:
            raise CannotEvaluate("the command is empty", fix="give a program and its arguments")
        return cls(words, seconds)

    async def passes(self, *, question: str, wanted: str, answer: str) -> bool:
        """Whether it ends with 0 within its time. Raises CannotEvaluate when it cannot be started."""
        with tempfile.TemporaryDirectory(prefix="loradock-evaluate-") as folder:
            texts = {"question": question, "wanted": wanted, "answer": answer}
            words, stdin_from = self._laid_out(Path(folder), texts)
            with stdin_from.open("rb") as stdin:
                try:
                    process = await asyncio.create_subprocess_exec(
                        *words,
                        stdin=stdin,
                        stdout=asyncio.subprocess.DEVNULL,
                        stderr=asyncio.subprocess.DEVNULL,
                        env=_harmless(),
                        start_new_session=True,
                    )
                except OSError as error:
                    raise CannotEvaluate(
                        f"the command {words[0][:80]!r} cannot be started: {error.strerror}",
                        fix="name a program on PATH, or its whole path",
                    ) from error
            try:
                async with asyncio.timeout(self.seconds):
                    return await process.wait() == 0
            except TimeoutError:
                return False
            finally:
                # Children that it left behind, too.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()

    def _laid_out(self, folder: Path, texts: Mapping[str, str]) -> tuple[list[str], Path]:
        """The texts as files; the words with their paths, and what stdin reads."""
        words = list(self.words)
        for name, text in texts.items():
            path = folder / name
            path.write_text(text, encoding="utf-8", errors="replace")
            words = [word.replace(f"{{{name}}}", str(path)) for word in words]
        by_file = any("{answer}" in word for word in self.words)
        return words, Path(os.devnull) if by_file else folder / "answer"


def _harmless() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not any(word in name.upper() for word in _SECRET)}
