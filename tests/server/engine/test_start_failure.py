"""Causes out of logs of real starts: each file in starts/ is what vLLM 0.32 on CPU wrote after one fault was planted,
with most frames of its tracebacks left out.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from loradock_server.engine import exits
from loradock_server.engine.start_failure import LONGEST_CAUSE, explain_start
from loradock_server.engine.start_log import LogFile, readable
from loradock_server.engine.start_rules import RULES

STARTS = Path(__file__).parent / "starts"

# file: exit status, what the cause and the fix say, whether it may pass
PLANTED = {
    "bad_flag": (2, "flag: unrecognized arguments: --no-such-flag=1", "LORADOCK_ENGINE_ARGS", False),
    "bad_value": (2, "argument --max-num-seqs: invalid int value: 'many'", "LORADOCK_ENGINE_ARGS", False),
    "too_long": (1, "max_model_len (100000) is greater than", "LORADOCK_MAX_MODEL_LEN", False),
    "kv_small": (1, "No available memory for the cache blocks.", "raise LORADOCK_KV_CACHE_BYTES", False),
    "kv_huge": (1, "less than requested memory for kv (32768.0 GiB)", "lower LORADOCK_KV_CACHE_BYTES", False),
    "arch": (1, "Model architectures ['FooForCausalLM'] are not supported", "class that vLLM lists", False),
    "mtype": (1, "model type `foonet`", "class that vLLM lists", False),
    "gpt2": (1, "GPT2LMHeadModel does not support LoRA", "takes LoRA", False),
    "no_model": (1, "there is no model in the folder /models/gone", "LORADOCK_MODEL", False),
    "noweights": (1, "Cannot find any model weights with `/models/noweights`", "LORADOCK_MODEL", False),
    "cut": (1, "weights cannot be read: SafetensorError", "fetch the model again", False),
    "notok": (1, "no tokenizer", "LORADOCK_MODEL", False),
    "badjson": (1, "JSONDecodeError", "LORADOCK_MODEL", False),
    "compiler_fails": (1, "compiler failed at the model: internal compiler error", "LORADOCK_COMPILE=false", False),
    "no_header": (1, "Python's headers: Python.h", "python3-dev", False),
    "no_space": (1, "no space left", "free some", False),
    "llvm": (1, "LLVM ERROR: Do not know how to split the result of this operator!", "the processor's name", False),
    "core_killed": (1, "vLLM's core or a worker was ended from outside", "dmesg", True),
    "selftest": (exits.UNSOUND, "self-test failed: the base model beside an adapter differs", "Correctness", False),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_the_root_of_a_planted_fault_is_found_with_its_fix(name: str) -> None:
    status, cause, fix, passing = PLANTED[name]
    failure = explain_start((STARTS / f"{name}.txt").read_text(), status)
    assert cause in failure.cause
    assert fix in failure.fix
    assert failure.passing == passing
    assert "\n" not in failure.cause + failure.fix
    assert "root cause" not in failure.cause.lower()
    assert "pid=" not in failure.cause


def test_every_recorded_start_is_in_the_table() -> None:
    assert {path.stem for path in STARTS.glob("*.txt")} == set(PLANTED)


@pytest.mark.parametrize(
    ("log", "status", "cause", "passing"),
    [
        ("", -9, "signal SIGKILL", True),
        ("", exits.HUNG, "hung", True),
        ("", 0, "without an error", True),
        ("Worker proc VllmWorker-0 died unexpectedly (exit code: -9), shutting down", 1, "signal SIGKILL", True),
        ("ERROR:    [Errno 98] error while attempting to bind on address", 1, "address is in use", True),
        ("std::bad_alloc", 1, "not enough memory", False),
    ],
)
def test_what_may_pass_is_told_from_what_cannot(log: str, status: int, cause: str, passing: bool) -> None:
    failure = explain_start(log, status)
    assert cause in failure.cause
    assert failure.passing == passing


def test_the_kernels_kill_for_want_of_memory_is_said_where_no_process_could_say_anything() -> None:
    log = (
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': -9}"
    )
    assert "want of memory" in explain_start(log, 1, killed_for_memory=True).cause
    assert "signal SIGKILL" in explain_start(log, 1).cause


def test_of_a_chain_of_unknown_exceptions_the_first_is_the_root_unless_another_was_raised_while_handling_it() -> None:
    def traceback(words: str) -> str:
        return (
            f'Traceback (most recent call last):\n  File "x.py", line 1, in f\n    no space left on device\n{words}\n'
        )

    caused = "\nThe above exception was the direct cause of the following exception:\n\n"
    during = "\nDuring handling of the above exception, another exception occurred:\n\n"
    one, two = traceback("a.b.OddError: the root"), traceback("RuntimeError: what came of it")
    assert explain_start(one + caused + two, 1).cause == "OddError: the root"
    assert explain_start(one + during + two, 1).cause == "what came of it"


def test_a_process_whose_lines_lie_between_anothers_does_not_confuse_the_root() -> None:
    log = "\n".join(
        [
            "(EngineCore pid=1) ERROR 12-01 03:00:00 [core.py:1] Traceback (most recent call last):",
            "(Worker pid=2) INFO 12-01 03:00:00 [x.py:1] RuntimeError: of nobody",
            '(EngineCore pid=1) ERROR 12-01 03:00:00 [core.py:1]   File "x.py", line 1, in f',
            "(Worker pid=2) OddError: later",
            "(EngineCore pid=1) ERROR 12-01 03:00:00 [core.py:1] KeyError: 'first'",
        ]
    )
    assert explain_start(log, 1).cause == "KeyError: 'first'"


def test_warnings_and_quoted_source_are_no_faults() -> None:
    log = (
        "(Worker pid=2) WARNING 12-01 03:00:00 [x.py:1] No space left on device\n"
        "2026-12-01 03:00:00,000 WARNING loradock.engine: LLVM ERROR: not so\n"
        "(Worker pid=2) ERROR 12-01 03:00:00 [x.py:1]     raise ValueError('does not support LoRA')\n"
    )
    assert "gave no reason" in explain_start(log, 3).cause or "no reason" in explain_start(log, 3).cause


def test_a_cause_is_one_short_line_whatever_a_stranger_put_into_a_name(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_bytes(b"LLVM ERROR: \x1b[31mred\x1b[0m\x07\x00\xff\xe2\x80\xae" + b"x" * 100_000 + b"\n")
    cause = explain_start(readable(log.read_bytes()), 1).cause
    assert len(cause) <= LONGEST_CAUSE
    assert cause.isprintable()
    assert "red" in cause


def test_only_the_present_start_is_read_and_only_so_much_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loradock_server.engine.start_log.KEPT_BYTES", 1000)
    path = tmp_path / "logs" / "engine.log"
    path.parent.mkdir()
    path.write_text("LLVM ERROR: long ago\n")
    log = LogFile(path)
    with log.begin() as output:
        output.write(b"begin\n" + b"noise\n" * 10_000 + b"end\n")
    text = log.text()
    assert "long ago" not in text
    assert text.startswith("begin\n")
    assert text.endswith("end\n")
    assert len(text) < 2100


def test_every_fix_names_something_to_do_and_can_be_filled_in() -> None:
    for rule in RULES:
        names = dict.fromkeys(rule.pattern.groupindex, "x")
        assert rule.cause.format(line="l", error="e", **names)
        assert rule.fix.format(**names)
