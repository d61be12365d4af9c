from __future__ import annotations

import os
from pathlib import Path

from sandboxbuild.system import locks


def test_an_exclusive_lock_keeps_others_out_until_it_ends(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with locks.exclusive(path), locks.try_exclusive(path) as taken:
        assert not taken
    with locks.try_exclusive(path) as taken:
        assert taken


def test_sharers_do_not_exclude_each_other(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    fd = locks.take_shared(path)
    with locks.shared(path), locks.try_exclusive(path) as taken:
        assert not taken
    os.close(fd)
    with locks.try_exclusive(path) as taken:
        assert taken
