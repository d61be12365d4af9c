"""Writing so that a reader sees the whole file or none, and saying it plainly when the disk is full."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from sandboxbuild.errors import LimitExceeded

NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class Owned(Protocol):
    """Who files are given to."""

    path: str

    def give_to_owner(self, fd: int) -> None: ...


@contextmanager
def disk_errors(place: str) -> Iterator[None]:
    """Turn "no space" and "quota exceeded" into LimitExceeded; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise full_disk(place) from error
        raise


def full_disk(place: str) -> LimitExceeded:
    return LimitExceeded(f"the disk is full: {place}", hint="free some space, or run `sandboxbuild prune`")


def is_full(error: OSError) -> bool:
    return error.errno in _FULL


def fresh_name(prefix: str) -> str:
    """A name that nobody else has."""
    return f"{prefix}-{os.urandom(10).hex()}"


def write_all(fd: int, data: bytes | bytearray | memoryview, place: str) -> None:
    """Write every byte. Raises LimitExceeded if the disk is full."""
    try:
        written = os.write(fd, data)
        if written != len(data):
            view = memoryview(data)[written:]
            while view:
                view = view[os.write(fd, view) :]
    except OSError as error:
        if is_full(error):
            raise full_disk(place) from error
        raise


def write_small(owner: Owned, tmp_fd: int, folder_fd: int, name: str, data: bytes) -> None:
    """Put `data` at `name` at once, replacing what is there; never through a link. Not fsynced."""
    temporary = fresh_name("file")
    with disk_errors(owner.path):
        fd = os.open(temporary, NEW_FILE, 0o644, dir_fd=tmp_fd)
        try:
            owner.give_to_owner(fd)
            write_all(fd, data, owner.path)
            os.rename(temporary, name, src_dir_fd=tmp_fd, dst_dir_fd=folder_fd)
        except BaseException:
            unlink_if_there(tmp_fd, temporary)
            raise
        finally:
            os.close(fd)


def unlink_if_there(folder_fd: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=folder_fd)
    except FileNotFoundError:
        pass
