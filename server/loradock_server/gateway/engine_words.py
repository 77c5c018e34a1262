"""vLLM's errors in OpenAI's words: which field is at fault, by which code programs know it, in a sentence.

It changes nothing of what an error means, and leaves what it does not know as it is. It knows no HTTP.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CONTEXT_FIELD = "input_tokens"
"""What vLLM calls the field with a prompt that is too long, whatever its name in this API."""

_TOO_LONG = re.compile(r"maximum context length|longer than the (maximum|model's) (model|context) length|max_model_len")
_ASIDE = re.compile(r"\s*\(parameter=(\w+)(?:, value=[^()]*)?\)$", re.DOTALL)
# Pydantic puts the class that it tried into the path.
_CLASS = re.compile(r"\.[A-Z]\w*")
_REPORTED = 3
_SHOWN = 80
_PARSER = re.compile(r"requires .*--tool-call-parser")
_HOW_TO_PARSE = (
    "; this server was started without: its operator sets both in LORADOCK_ENGINE_ARGS, with the parser for the base "
    "model (or send no `tools`)"
)


@dataclass(frozen=True, slots=True)
class Words:
    """`param` and `code` as OpenAI's errors have them."""

    message: str
    param: str | None
    code: str | None


def in_openais_words(status: int, error: Mapping[str, Any]) -> Words:
    """What to tell of an error that the engine answered with; `error` is what stands under that name in its body."""
    message = str(error.get("message") or f"the engine answered {status}")
    param, code = error.get("param"), error.get("code")
    # vLLM puts the HTTP status into `code`, as a number; OpenAI's is a word or null.
    code = code if isinstance(code, str) else ("model_not_found" if status == 404 else None)
    param = _path(param) if isinstance(param, str) else None
    if "validation error" in message[:40]:
        message = _validation(message)
    elif found := _ASIDE.search(message):
        message, param = message[: found.start()], param or found[1]
    if status == 400 and code is None and _TOO_LONG.search(message):
        code = "context_length_exceeded"
    if _PARSER.search(message):
        message, param = message + _HOW_TO_PARSE, "tools"
    return Words(message, param, code)


def _validation(message: str) -> str:
    """Pydantic's list of faults, one Python dict a line, as sentences."""
    lines = [line.strip() for line in message.splitlines()[1:]]
    # Where one of many shapes is wanted, all but one of the wrong literals only say that it is none of the others.
    plain = [line for line in lines if "'type': 'literal_error'" not in line]
    told = [said for line in plain or lines if (said := _fault(line))]
    if not told:
        return message
    return "; ".join(dict.fromkeys(told[:_REPORTED]))


def _path(where: str) -> str:
    return _CLASS.sub("", where.removeprefix("body.").removeprefix("body"))


def _fault(line: str) -> str | None:
    if not line.startswith("{"):
        return None
    try:
        fault = ast.literal_eval(line)
        where, what = _path(str(fault["loc"])), str(fault["msg"])
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError):
        return None  # cut short by vLLM
    shown = str(fault.get("input", ""))
    got = f" (got {shown[:_SHOWN]!r})" if shown and fault.get("type") != "missing" else ""
    return f"{where}: {what}{got}" if where else f"{what}{got}"
