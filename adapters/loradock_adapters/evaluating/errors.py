"""What keeps an evaluation from being made.

EvaluatingError                    .fix
├── CannotEvaluate   (ValueError)  the data, a flag or a setting of the measuring
├── ServerSaidNo                   the server, or the judge, turned a request down; .status
└── ServerGone                     no answer came, in spite of patience
"""

from __future__ import annotations

from loradock_adapters.errors import LoraDockError


class EvaluatingError(LoraDockError):
    """No verdict was reached. What was answered so far is kept."""

    def __init__(self, message: str, *, fix: str | None = None) -> None:
        super().__init__(message)
        self.fix = fix


class CannotEvaluate(EvaluatingError, ValueError):
    """Something that was given cannot be used."""


class ServerSaidNo(EvaluatingError):
    """An HTTP answer that is an error and will stay one."""

    def __init__(self, message: str, *, status: int, fix: str | None = None) -> None:
        super().__init__(message, fix=fix)
        self.status = status


class ServerGone(EvaluatingError):
    """Nobody answers, or always with "later"."""
