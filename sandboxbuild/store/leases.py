"""Who is at work in a store: a lease for each build, and the lock between those who use things and the one who removes them.

Locks are flock(2), so that the kernel releases them however a process ends. Two kinds:

- `builds/<id>.lock`, held shared by the launcher and the executor of a build. Its mtime is the build's start. While it is
  held, whatever was used since then is safe from prune, and so is `tmp/<id>`.
- `prune.lock`, held shared for the moment in which something is marked as used or comes under its final name, and alone for
  the moment in which prune looks once more and moves something away.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from sandboxbuild.errors import LimitExceeded, UsageError
from sandboxbuild.store.disk import disk_errors, is_full
from sandboxbuild.store.layout import Root, is_plain_name

_PRUNE_LOCK: Final = "prune.lock"
_SUFFIX: Final = ".lock"
_OPEN: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WAIT_S: Final = 60.0


class Lease:
    """A build's claim to the store, from construction to close(). Several processes may hold the same build's."""

    __slots__ = ("_fd", "_root", "build_id")

    def __init__(self, root: Root, build_id: str) -> None:
        if not is_plain_name(build_id):
            raise UsageError(f"{build_id!r} is no name for a build")
        self._root = root
        self.build_id = build_id
        self._fd = _hold(root, build_id + _SUFFIX)

    def close(self, at_last: Callable[[], object]) -> None:
        """Give it up; the last to do so calls `at_last` and takes the lock's file away. Idempotent."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            if _try(fd, fcntl.LOCK_EX):
                at_last()
                _unlink_same(self._root.folder("builds"), self.build_id + _SUFFIX, fd)
        finally:
            os.close(fd)


def live_starts(root: Root, except_id: str = "") -> dict[str, int]:
    """The builds at work and when each began (nanoseconds); locks that nobody holds are removed."""
    folder = root.folder("builds")
    starts: dict[str, int] = {}
    for name in _listed(root):
        build_id = name.removesuffix(_SUFFIX)
        start_ns = _start_if_held(folder, name)
        if start_ns is not None and build_id != except_id:
            starts[build_id] = start_ns
    return starts


def is_live(root: Root, build_id: str) -> bool:
    return _start_if_held(root.folder("builds"), build_id + _SUFFIX) is not None


@contextmanager
def using(root: Root) -> Iterator[None]:
    """Keep prune from removing anything for a moment."""
    fd = _locked(root, fcntl.LOCK_SH)
    try:
        yield
    finally:
        os.close(fd)


@contextmanager
def removing(root: Root) -> Iterator[None]:
    """Keep everybody from using anything for a moment."""
    fd = _locked(root, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(fd)


def _locked(root: Root, operation: int) -> int:
    """A descriptor of its own holds each lock, for flock counts by open description and not by thread."""
    fd = _opened(root, root.fd, _PRUNE_LOCK)
    try:
        root.give_to_owner(fd)
        deadline = 0.0
        while not _try(fd, operation):
            now = time.monotonic()
            deadline = deadline or now + _WAIT_S
            if now > deadline:
                raise LimitExceeded(f"another process has locked the store {root.path} for {_WAIT_S:.0f} s")
            time.sleep(0.002)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _opened(root: Root, folder: int, name: str) -> int:
    with disk_errors(root.path):
        try:
            return os.open(name, _OPEN | os.O_CREAT, 0o600, dir_fd=folder)
        except OSError as error:
            if is_full(error):
                raise
            raise UsageError(f"the store {root.path} can't be locked: {name}: {error.strerror}") from error


def _hold(root: Root, name: str) -> int:
    folder = root.folder("builds")
    while True:
        fd = _opened(root, folder, name)
        # One who is about to remove the file holds it alone; then it has no name any more, and a new one is made.
        if _try(fd, fcntl.LOCK_SH) and _is_same(folder, name, fd):
            root.give_to_owner(fd)
            return fd
        os.close(fd)
        time.sleep(0.001)


def _start_if_held(folder: int, name: str) -> int | None:
    try:
        fd = os.open(name, _OPEN, dir_fd=folder)
    except OSError:
        return None
    try:
        if not _try(fd, fcntl.LOCK_EX):
            return os.fstat(fd).st_mtime_ns
        _unlink_same(folder, name, fd)
        return None
    finally:
        os.close(fd)


def _listed(root: Root) -> list[str]:
    fd = root.reopened("builds")
    try:
        return [name for name in os.listdir(fd) if name.endswith(_SUFFIX) and is_plain_name(name)]
    finally:
        os.close(fd)


def _try(fd: int, operation: int) -> bool:
    try:
        fcntl.flock(fd, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_same(folder: int, name: str, fd: int) -> bool:
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(status, os.fstat(fd))


def _unlink_same(folder: int, name: str, fd: int) -> None:
    if _is_same(folder, name, fd):
        os.unlink(name, dir_fd=folder)
