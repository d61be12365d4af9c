"""A directory on disk as a Tree, read only as far as it is asked for, by descriptor and through no symlink."""

from __future__ import annotations

import errno
import os
from typing import Final

from sandboxbuild.archive.scan import read_descriptor, read_entry
from sandboxbuild.errors import ContextError, LimitExceeded
from sandboxbuild.fstree.entry import Entry
from sandboxbuild.fstree.paths import name_of, parent_of
from sandboxbuild.system.files import open_beneath

MAX_ENTRIES: Final = 5_000_000
_KEPT_OPEN: Final = 64
_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_ABSENT: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EXDEV)


class DirectoryTree:
    """Implements fstree's Tree. Answers are read afresh each time. A context manager; `root_fd` stays the caller's.

    Raises LimitExceeded once more than `max_entries` names were listed, ContextError if the disk fails or something changed
    into something else while it was looked at.
    """

    def __init__(self, root_fd: int, *, max_entries: int = MAX_ENTRIES) -> None:
        self._root_fd = root_fd
        self._left = max_entries
        self._open: dict[bytes, int] = {}

    def __enter__(self) -> DirectoryTree:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up the directories that are held open; the tree stays usable."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    def entry(self, path: bytes) -> Entry | None:
        try:
            if not path:
                return read_descriptor(self._directory(b""), b"")
            return read_entry(self._directory(parent_of(path)), name_of(path), path)
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise _unreadable(path, error) from error

    def children(self, path: bytes) -> tuple[bytes, ...]:
        try:
            names = sorted(os.fsencode(name) for name in os.listdir(self._directory(path)))
        except OSError as error:
            if error.errno in _ABSENT:
                return ()
            raise _unreadable(path, error) from error
        self._left -= len(names)
        if self._left < 0:
            raise LimitExceeded("there are too many files to copy")
        return tuple(names)

    def _directory(self, path: bytes) -> int:
        """An open directory that stays open until the next call at least."""
        found = self._open.get(path)
        if found is not None:
            return found
        while len(self._open) >= _KEPT_OPEN:
            os.close(self._open.pop(next(iter(self._open))))
        self._open[path] = open_beneath(self._root_fd, path or b".", _FLAGS)
        return self._open[path]


def _unreadable(path: bytes, error: OSError) -> ContextError:
    return ContextError(f"/{path.decode('utf-8', 'backslashreplace')} can't be read: {error.strerror}")
