"""A small file of a context, such as its Dockerfile: read on both sides of the sandbox, and by the same rules."""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from sandboxbuild.errors import InputError, LimitExceeded
from sandboxbuild.system.files import open_in_root, read_limited

DOCKERFILE_LIMIT_BYTES: Final = 1024 * 1024
_SHOWN: Final = 200


def read_in_root(root_fd: int, path: str) -> bytes | None:
    """A regular file of the context at `root_fd`, None if it isn't there. Links lead nowhere outside; a FIFO or device is
    refused, not waited for. Raises InputError, LimitExceeded.
    """
    shown = repr(path[:_SHOWN])
    try:
        fd = open_in_root(root_fd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise InputError(f"{shown} in the context can't be opened: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InputError(f"{shown} in the context is not a regular file")
        return read_dockerfile(fd, path)
    finally:
        os.close(fd)


def read_dockerfile(fd: int, path: str) -> bytes:
    """What an open file named `path` holds. Raises LimitExceeded where that is more than any Dockerfile has."""
    try:
        return read_limited(fd, DOCKERFILE_LIMIT_BYTES)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise LimitExceeded(f"{path[:_SHOWN]!r} has more than {DOCKERFILE_LIMIT_BYTES} bytes") from error
        raise
