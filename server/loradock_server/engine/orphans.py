"""Ends vLLM's core and workers with the process that started them, however that one ended.

A supervisor kills what its engine leaves behind. Where both are killed, nobody else would: the core waits for ever for
questions that do not come, and holds the memory. The kernel does it here, for a process that hangs too. It knows
processes and nothing of vLLM.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys

from . import exits

# Names the engine process that those with this environment belong to. Not for people to set.
LEADER = "LORADOCK_ENGINE_LEADER"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def lead() -> None:
    """Have the processes that this one starts from now on belong to it."""
    os.environ[LEADER] = str(os.getpid())


def end_with_parent() -> None:
    """Let the kernel kill this process when its parent is gone. Nothing outside of an engine, and nothing but on Linux.

    Not for every vLLM that loads our plugin: the kernel means the thread that started us, and elsewhere that may be one
    that ends early. An engine starts its processes from its main thread.
    """
    parent = multiprocessing.parent_process()
    if parent is None or os.environ.get(LEADER) != str(os.getpgrp()) or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent.pid:  # it was gone before
        os._exit(exits.ORPHANED)
