"""How an engine process leaves: with the status and words of what ended it, and nothing after them."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import atexit
from loradock_server.engine.leaving import end_with

class Leak:
    def __del__(self):
        print("torn down")

kept = Leak()
atexit.register(lambda: print("spans are sent"))

def work():
    {work}

end_with(work)
"""


@pytest.mark.parametrize(
    ("work", "status", "words"),
    [
        ("pass", 0, ""),
        ("raise SystemExit", 0, ""),
        ("raise SystemExit(2)", 2, ""),
        ("raise SystemExit('said')", 1, "said"),
        ("raise ValueError('why')", 1, "ValueError: why"),
    ],
)
def test_exit_handlers_run_and_nothing_is_torn_down_where_native_libraries_would_report_leaks(
    work: str, status: int, words: str
) -> None:
    program = PROGRAM.format(work=work)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == status, done.stderr
    assert words in done.stderr
    assert done.stdout.endswith("spans are sent\n")
