"""Why an engine could not start: the first fatal line of any of its processes, in one line, with what mends it.

The API process, vLLM's core, its workers and the compilers that they call all write to one log. The process that fails
first is rarely the one that ends the log: "Engine core initialization failed. See root cause above" does. Pure: text
and exit status in, words out. The log is a stranger's as far as names of models and files go; its text is never run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from . import exits
from .start_rules import ADVICE, RULES, Rule

LONGEST_CAUSE = 400
_LONGEST_LINE = 4000

# What stands before a line: the process as "(EngineCore pid=7) ", then level and time, as vLLM and as we write them.
_PROCESS = re.compile(r"^\(\w[\w .:=-]{0,60}\) ")
_LEVEL = re.compile(
    r"^(?:(?P<level>[A-Z]{4,8}) \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]{0,80}\] ?"
    r"|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (?P<ours>[A-Z]{4,8}) [\w.]{1,80}: )"
)
_HARMLESS = frozenset({"DEBUG", "INFO", "WARNING"})
_TRACEBACK = "Traceback (most recent call last):"
_DURING = "During handling of the above exception, another exception occurred:"
_CAUSED = "The above exception was the direct cause of the following exception:"
_EXCEPTION = re.compile(r"^(?:[A-Za-z_]\w*\.)*(?P<name>[A-Z]\w*)(?:: (?P<words>.*))?$")
_SAYS_NOTHING = frozenset({"Exception", "RuntimeError", "ValueError"})
_VALIDATION = re.compile(r"^\d+ validation errors? for ")
# A traceback's frames quote source code, which is full of words for faults that did not happen.
_FRAME = re.compile(r'^(?:    |  File ")')
_DEATH = re.compile(r"died unexpectedly \(exit code: (?P<status>-\d{1,2})\)|Failed core proc.*: (?P<core>-\d{1,2})\b")
_ERROR = re.compile(r"\berror\b(?!\s*$)", re.IGNORECASE)
_NEAR = 60
# These only tell that some other process failed.
_WRAPPERS = ("Engine core initialization failed", "WorkerProc initialization failed", "Worker failed with error")


@dataclass(frozen=True, slots=True)
class StartFailure:
    """`cause`: one line. `passing`: it may be gone at the next try without anybody's doing."""

    cause: str
    fix: str
    passing: bool


@dataclass(frozen=True, slots=True)
class _Line:
    text: str
    process: str  # its prefix: lines of several processes lie between each other
    harmless: bool


def explain_start(log: str, status: int, *, killed_for_memory: bool = False, hang: str | None = None) -> StartFailure:
    """The root of a start that ended with `status` (negative: a signal) after writing `log`.

    `killed_for_memory`: the kernel ended some process for want of memory meanwhile. `hang`: why the supervisor
    ended it.
    """
    lines = list(_lines(log))
    for weak in (False, True):
        if found := _known(lines, weak=weak):
            return found
    if killed_for_memory:
        return StartFailure(
            "the kernel killed a process of the engine for want of memory",
            "close other programs or give it more memory; lower LORADOCK_KV_CACHE_BYTES, or take a smaller model",
            passing=True,
        )
    if hang is not None:
        return StartFailure(
            f"it came to nothing: {hang}", "see the log; raise LORADOCK_ENGINE_START_TIMEOUT on a slow machine", True
        )
    if root := _first_exception(lines):
        return StartFailure(
            shortened(root), "the log has the whole traceback; report it if nothing there is yours to mend", False
        )
    return _by_deaths(lines) or _by_status(status)


def _known(lines: list[_Line], *, weak: bool) -> StartFailure | None:
    rules = [rule for rule in RULES if rule.weak == weak]
    for number, line in enumerate(lines):
        if line.harmless or _FRAME.match(line.text):
            continue
        for rule in rules:
            if found := rule.pattern.search(line.text):
                return _by_rule(rule, found, lines, number)
    return None


def _by_rule(rule: Rule, found: re.Match[str], lines: list[_Line], number: int) -> StartFailure:
    words = {name: (value or "").strip() for name, value in found.groupdict().items()}
    line = ADVICE.sub("", _exception_words(lines, number) or _without_type(lines[number].text))
    told = (one.text for one in lines[number + 1 : number + _NEAR] if _ERROR.search(one.text))
    cause = rule.cause.format(line=line, error=next(told, line), **words)
    return StartFailure(shortened(cause), rule.fix.format(**words), rule.passing)


def _by_deaths(lines: list[_Line]) -> StartFailure | None:
    """What is told of a process that could not tell anything itself: somebody killed it."""
    for line in lines:
        found = _DEATH.search(line.text)
        if found is None and not any(wrapper in line.text for wrapper in _WRAPPERS):
            continue
        by = f" by {exits.explain(int(found['status'] or found['core']))}" if found else ""
        return StartFailure(
            f"vLLM's core or a worker was ended from outside{by}, and could not say why",
            "see who did, the kernel's log (dmesg) too; mostly it is want of memory",
            passing=True,
        )
    return None


def _by_status(status: int) -> StartFailure:
    if status == 0:
        return StartFailure("it ended without an error", "see the log", passing=True)
    if status < 0:
        return StartFailure(
            f"something ended it with {exits.explain(status)}",
            "see who did, the kernel's log (dmesg) too",
            passing=True,
        )
    return StartFailure(f"it ended with {exits.explain(status)} and no reason", "see the log", passing=True)


def _lines(log: str) -> Iterator[_Line]:
    for raw in log.split("\n"):
        text, process = raw[:_LONGEST_LINE], ""
        if found := _PROCESS.match(text):
            process, text = found[0], text[found.end() :]
        harmless = False
        if found := _LEVEL.match(text):
            harmless = (found["level"] or found["ours"]) in _HARMLESS
            text = text[found.end() :]
        yield _Line(text.rstrip(), process, harmless)


def _first_exception(lines: list[_Line]) -> str | None:
    """The words of the first exception that no code handled by raising a better one."""
    for start, line in enumerate(lines):
        if line.text.strip() != _TRACEBACK:
            continue
        of_process = [
            (number, one.text)
            for number, one in enumerate(lines[start + 1 :], start + 1)
            if one.process == line.process and not one.harmless
        ]
        root = _root_of_chain(lines, of_process)
        if root and not any(wrapper in root for wrapper in _WRAPPERS):
            return root
    return None


def _root_of_chain(lines: list[_Line], rest: list[tuple[int, str]]) -> str | None:
    root: str | None = None
    for position, (number, text) in enumerate(rest):
        if root is None:
            # Frames are indented; the first line that is not is the exception.
            if text and not text[0].isspace() and _EXCEPTION.match(text):
                root = _exception_words(lines, number)
        elif text.strip() == _DURING:
            # Whoever raised while handling had something better to say.
            root = None
        elif text.strip() == _CAUSED or (text.strip() == _TRACEBACK and position > 0):
            return root
    return root


def _exception_words(lines: list[_Line], number: int) -> str | None:
    """An exception's line as people read it, with the first of pydantic's errors, which stand on lines of their own."""
    found = _EXCEPTION.match(lines[number].text)
    if found is None:
        return None
    words = found["words"] or ""
    if _VALIDATION.match(words):
        process = lines[number].process
        details = [line.text.strip() for line in lines[number + 1 : number + 6] if line.process == process]
        for detail in details:
            if "[type=" in detail:
                return _without_type(detail)
    return (
        words if words and found["name"] in _SAYS_NOTHING else f"{found['name']}: {words}" if words else found["name"]
    )


def _without_type(detail: str) -> str:
    """One of pydantic's errors without its type and the whole of its input."""
    return detail.strip().partition(" [type=")[0].removeprefix("Value error, ")


def shortened(text: str) -> str:
    """One line of at most LONGEST_CAUSE characters."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_CAUSE else line[: LONGEST_CAUSE - 1] + "…"
