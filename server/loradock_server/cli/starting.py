"""The garbage collector stays out of a server's start.

What a start makes stays for good: modules, and a record for every version of every adapter, hundreds of thousands of
objects where there are many. Looking through them again and again while they are made takes as long as making them, and
looking through them later holds up requests for tenths of a second.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# A request makes a hundred or so that are counted; looking for cycles every seventh request is a waste.
_NEW_OBJECTS = 20_000


@contextmanager
def uncollected() -> Iterator[None]:
    """Inside, nothing is collected until `done`."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def done() -> None:
    """What is there stays and is not looked at again; what comes from now on is collected as always."""
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, 20, 50)
    gc.enable()
