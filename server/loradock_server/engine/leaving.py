"""How a process of the engine leaves: with a status that tells why, and without last words of native libraries."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn


def end_with(work: Callable[[], None]) -> NoReturn:
    """Do `work` and end this process with what it came to, with exit handlers and without tearing the interpreter down.

    Native libraries report then what they leaked, a screenful that nobody can act on, after the line that matters.
    """
    status = 1
    try:
        work()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        if isinstance(error.code, str):
            sys.stderr.write(error.code + "\n")
    except BaseException:  # noqa: BLE001  # the process ends here, and with its reason
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    leave(status)


def leave(status: int) -> NoReturn:
    """Not by way of vLLM's shutdown, which may wait for a hung process; the supervisor ends the process group."""
    logging.shutdown()
    os._exit(status)
