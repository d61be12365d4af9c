"""The contents of a tree's files, opened by descriptor below its root; a directory stays open while its files are read."""

from __future__ import annotations

import os

from sandboxbuild.fstree.entry import Entry
from sandboxbuild.system.files import open_beneath

# A FIFO put in a file's place must not hold us up.
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class ContentOpener:
    """Opens files below `root`, following no link at all. A context manager."""

    def __init__(self, root: str) -> None:
        self._root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._parent = b""
        self._parent_fd = self._root_fd

    def __enter__(self) -> ContentOpener:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()
        os.close(self._root_fd)

    def open(self, entry: Entry) -> int:
        """A descriptor of the entry's content, at its start, for the caller to close. Raises OSError."""
        parent, _, name = entry.path.rpartition(b"/")
        if parent != self._parent:
            self._leave()
            self._parent_fd = open_beneath(self._root_fd, parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self._parent = parent
        return os.open(name, _READ_FLAGS, dir_fd=self._parent_fd)

    def _leave(self) -> None:
        if self._parent_fd != self._root_fd:
            os.close(self._parent_fd)
        self._parent, self._parent_fd = b"", self._root_fd
