"""Work in a process of its own."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from sandboxbuild.system.apart import done_apart


def test_the_work_is_done_by_another_process(tmp_path: Path) -> None:
    said = tmp_path / "pid"
    assert done_apart(lambda: said.write_text(str(os.getpid())))
    assert int(said.read_text()) != os.getpid()


def test_a_fault_is_false_and_stays_there() -> None:
    assert not done_apart(lambda: 1 / 0)


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
