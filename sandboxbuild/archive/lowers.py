"""The unpacked layers below one that is being unpacked: what its archive takes for granted of parents."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

from sandboxbuild.system.files import open_beneath


class LowerLayers:
    """The unpacked layers below the one that is being unpacked, lowest first: what its archive takes for granted."""

    def __init__(self, layers: Sequence[str]) -> None:
        self._roots = [os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for path in reversed(layers)]

    def close(self) -> None:
        for fd in self._roots:
            os.close(fd)
        self._roots = []

    def open_directory(self, path: bytes) -> int | None:
        """A descriptor of the topmost layer's directory at `path`, or None if the topmost thing there is none."""
        for root in self._roots:
            try:
                fd = open_beneath(root, path or b".", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno in (errno.ENOTDIR, errno.ELOOP):
                    return None
                raise
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                return fd
            os.close(fd)
            return None
        return None
