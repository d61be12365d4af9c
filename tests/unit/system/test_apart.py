"""Work in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from sandboxbuild.system.apart import done_apart

PROGRAM = """
import os, sys
from sandboxbuild.system.apart import done_apart
print(done_apart(lambda: print(os.getpid(), flush=True)), done_apart(lambda: 1 / 0), os.getpid())
"""


def test_the_work_is_done_by_another_process_and_a_fault_stays_there() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    worker, first, second, caller = done.stdout.split()
    assert (first, second, done.stderr) == ("True", "False", "")
    assert worker != caller


def test_nothing_is_forked_beside_threads(tmp_path: Path) -> None:
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        assert not done_apart((tmp_path / "done").touch)
    finally:
        over.set()
        thread.join()
    assert not (tmp_path / "done").exists()
