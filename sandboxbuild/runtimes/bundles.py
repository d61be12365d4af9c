"""The bundles of a cache folder: held while a sandbox runs from one, and thrown away when nobody has used them for a while.

A new version of the package or the interpreter makes a new bundle of 27 MB. Whoever uses one has its folder locked (flock(2),
shared), so nobody takes it away meanwhile, and a lock goes with its holder, however that ends.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sandboxbuild.runtimes.bundle import LOCK_NAME, Bundle, ensure_bundle
from sandboxbuild.system import files, locks

KEPT: Final = 8
UNUSED_S: Final = 7 * 24 * 3600.0
RECENT_S: Final = 3600.0
_NAME: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
_STAGING: Final = re.compile(r"\.[0-9a-f]{32}\.\w+", re.ASCII)
_OPEN_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def used_bundle(cache_folder: str) -> Iterator[Bundle]:
    """The bundle for this interpreter and package, which stays as long as the block runs. Raises IsolationError."""
    held = None
    while held is None:
        bundle = ensure_bundle(cache_folder)
        held = _hold(bundle.path)
    try:
        prune(cache_folder)
        yield bundle
    finally:
        os.close(held)


def _hold(path: str) -> int | None:
    """A descriptor that keeps the folder until it is closed; None where the folder has just been taken away."""
    try:
        held = os.open(path, _OPEN_FOLDER)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_SH)
        if os.path.samestat(os.fstat(held), os.stat(path)):
            os.utime(held)  # the time of its last use
            return held
    except FileNotFoundError:
        pass
    except BaseException:
        os.close(held)
        raise
    os.close(held)
    return None


def prune(cache_folder: str) -> None:
    """Remove bundles that weren't used for UNUSED_S, all but KEPT of those that weren't used for RECENT_S, and what a killed
    maker left. Those in use stay, and nothing is done while another process makes or prunes some.
    """
    with locks.try_exclusive(os.path.join(cache_folder, LOCK_NAME)) as alone:
        if not alone:
            return
        folder_fd = os.open(cache_folder, _OPEN_FOLDER)
        try:
            names = os.listdir(folder_fd)
            for name in (
                *_old(folder_fd, [name for name in names if _NAME.fullmatch(name)]),
                *filter(_STAGING.fullmatch, names),
            ):
                _remove_unused(folder_fd, name)
        finally:
            os.close(folder_fd)


def _old(folder_fd: int, names: list[str]) -> list[str]:
    used_s = {name: os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_mtime for name in names}
    newest = sorted(names, key=lambda name: used_s[name], reverse=True)
    now = time.time()
    return [name for number, name in enumerate(newest) if now - used_s[name] > (UNUSED_S if number < KEPT else RECENT_S)]


def _remove_unused(folder_fd: int, name: str) -> None:
    """Under another name first, so that a half-removed bundle is never taken for a whole one."""
    lock = os.open(name, _OPEN_FOLDER, dir_fd=folder_fd)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        going = f".{name.lstrip('.')[:32]}.old"
        if going != name:
            files.remove_tree(folder_fd, going)
            os.rename(name, going, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
        files.remove_tree(folder_fd, going)
    except BlockingIOError:
        pass  # in use
    finally:
        os.close(lock)
