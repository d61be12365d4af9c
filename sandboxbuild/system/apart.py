"""Work in a process of its own: the memory that it takes goes with it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable


def done_apart(work: Callable[[], object]) -> bool:
    """Run `work` in a forked process and wait for it. False where it failed, or where threads forbid a fork.

    A fault isn't told: the caller does the work itself then, and sees it.
    """
    if threading.active_count() != 1:
        return False
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)
