"""File locks between processes and threads: flock(2) on an open description of its own, released by the kernel on any death."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager


def _open(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


@contextmanager
def _held(path: str, operation: int) -> Iterator[int]:
    fd = _open(path)
    try:
        fcntl.flock(fd, operation)
        yield fd
    finally:
        os.close(fd)


@contextmanager
def exclusive(path: str) -> Iterator[int]:
    """Hold `path` (made if absent) alone; waits. Gives the descriptor. Not reentrant: a second call in one thread deadlocks."""
    with _held(path, fcntl.LOCK_EX) as fd:
        yield fd


@contextmanager
def shared(path: str) -> Iterator[int]:
    """Hold `path` (made if absent) with other sharers; waits for an exclusive holder."""
    with _held(path, fcntl.LOCK_SH) as fd:
        yield fd


@contextmanager
def try_exclusive(path: str) -> Iterator[bool]:
    """Whether `path` could be taken at once; if so it is held until the block ends."""
    fd = _open(path)
    try:
        yield _try(fd)
    finally:
        os.close(fd)


def _try(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def take_shared(path: str) -> int:
    """A descriptor that holds `path` shared until it is closed, for locks that outlive a block (a build's lease)."""
    fd = _open(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
    except BaseException:
        os.close(fd)
        raise
    return fd
