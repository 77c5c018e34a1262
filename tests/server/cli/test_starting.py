"""A server's start is not collected, what came of it is not looked at again, and garbage after it goes as always."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc, weakref
from loradock_server.cli import starting

class Thing: pass

def garbage():
    thing = Thing()
    thing.itself = thing
    return weakref.ref(thing)

with starting.uncollected():
    assert not gc.isenabled()
    starting.done()
    assert gc.isenabled() and gc.get_freeze_count() > 1000
    after = garbage()
    gc.collect()
    assert after() is None
with starting.uncollected():
    pass  # a start that failed
assert gc.isenabled()
"""


def test_only_what_comes_after_the_start_is_collected() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
