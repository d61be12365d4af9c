"""A commit's tree onto disk, by descriptors, into a folder that nobody else can reach: no link is followed, nothing is run."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from sandboxbuild.contexts.gitobjects import BLOB, TREE, TreeEntry, parse_tree, shown
from sandboxbuild.errors import ContextError, LimitExceeded
from sandboxbuild.system.files import open_directory, write_all

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LINK_LIMIT_BYTES = 4095


class Objects(Protocol):
    def read(self, wanted: bytes, kind: int, /) -> bytes:
        """The content of an object. Raises ContextError where it isn't there."""

    def pieces(self, wanted: bytes, /) -> Iterator[bytes]:
        """A file's content in pieces. Raises ContextError likewise."""


class CheckoutLimits(NamedTuple):
    """One tree may stand in many places, so what is written can be far more than what was sent."""

    entries: int = 1_000_000
    total_bytes: int = 32 << 30
    depth: int = 256
    path_bytes: int = 4095


class Written(NamedTuple):
    """A file or link that was made, or a submodule's directory; `path` from the top, with slashes."""

    path: bytes
    entry: TreeEntry
    size_bytes: int


class Checkout:
    """Writes one tree. `owner` is what all of it belongs to, None for the process's own; times are `time_s`."""

    def __init__(
        self,
        objects: Objects,
        *,
        time_s: int,
        owner: tuple[int, int] | None,
        limits: CheckoutLimits = CheckoutLimits(),  # noqa: B008 - a frozen value
    ) -> None:
        self._objects = objects
        self._times_ns = (time_s * 10**9, time_s * 10**9)
        self._owner = owner
        self._limits = limits
        self._entries = 0
        self._bytes = 0
        self.written: list[Written] = []
        self.gitlinks: list[tuple[bytes, bytes]] = []  # a submodule's path and the id of its commit

    def write(self, tree: bytes, folder_fd: int) -> None:
        """Write the tree into the empty directory `folder_fd`. Raises ContextError, LimitExceeded, OSError for a full disk."""
        pending = [(tree, b"", 0)]
        directories: list[bytes] = []
        while pending:
            wanted, path, depth = pending.pop()
            directory_fd = self._open(folder_fd, path)
            try:
                for entry in parse_tree(self._objects.read(wanted, TREE)):
                    below = path + b"/" + entry.name if path else entry.name
                    self._count(below, depth)
                    if entry.is_directory or entry.is_gitlink:
                        self._directory(directory_fd, entry.name)
                        directories.append(below)
                        if entry.is_directory:
                            pending.append((entry.object_id, below, depth + 1))
                        else:
                            self.gitlinks.append((below, entry.object_id))
                            self.written.append(Written(below, entry, 0))
                    else:
                        self._leaf(directory_fd, entry, below)
            finally:
                os.close(directory_fd)
        self._finish_directories(folder_fd, directories)

    def _open(self, folder_fd: int, path: bytes) -> int:
        """A directory that this checkout made, step by step: none of them is a link, and `path` may be long."""
        descriptor = os.dup(folder_fd)
        for name in path.split(b"/") if path else ():
            below = open_directory(name, descriptor)
            os.close(descriptor)
            descriptor = below
        return descriptor

    def _count(self, path: bytes, depth: int) -> None:
        self._entries += 1
        if self._entries > self._limits.entries:
            raise LimitExceeded(f"the repository has more than {self._limits.entries} files")
        if depth >= self._limits.depth or len(path) > self._limits.path_bytes:
            raise LimitExceeded(f"the repository has a path that is too deep: {shown(path[:80])}")

    def _directory(self, directory_fd: int, name: bytes) -> None:
        os.mkdir(name, 0o755, dir_fd=directory_fd)

    def _leaf(self, directory_fd: int, entry: TreeEntry, path: bytes) -> None:
        if entry.is_symlink:
            target = self._objects.read(entry.object_id, BLOB)
            self._symlink(directory_fd, entry.name, target, path)
            size = len(target)
        else:
            size = self._file(directory_fd, entry)
        self.written.append(Written(path, entry, size))

    def _symlink(self, directory_fd: int, name: bytes, target: bytes, path: bytes) -> None:
        if not target or b"\0" in target or len(target) > _LINK_LIMIT_BYTES:
            raise ContextError(f"the repository has a malformed symbolic link {shown(path[:80])}")
        os.symlink(target, name, dir_fd=directory_fd)
        if self._owner is not None:
            os.chown(name, *self._owner, dir_fd=directory_fd, follow_symlinks=False)
        os.utime(name, ns=self._times_ns, dir_fd=directory_fd, follow_symlinks=False)

    def _file(self, directory_fd: int, entry: TreeEntry) -> int:
        """Write a file; gives its size."""
        descriptor = os.open(entry.name, _NEW_FILE, 0o600, dir_fd=directory_fd)
        size = 0
        try:
            for piece in self._objects.pieces(entry.object_id):
                size += len(piece)
                self._bytes += len(piece)
                if self._bytes > self._limits.total_bytes:
                    raise LimitExceeded(f"the repository's files have more than {self._limits.total_bytes} bytes")
                write_all(descriptor, piece)
            if self._owner is not None:
                os.fchown(descriptor, *self._owner)
            os.fchmod(descriptor, stat.S_IMODE(entry.mode))
            os.utime(descriptor, ns=self._times_ns)
        finally:
            os.close(descriptor)
        return size

    def _finish_directories(self, folder_fd: int, directories: list[bytes]) -> None:
        """Owner, mode and time, the deepest first: making an entry changes its directory's time."""
        for path in (*reversed(directories), b""):
            descriptor = self._open(folder_fd, path)
            try:
                os.fchmod(descriptor, 0o755)
                if self._owner is not None:
                    os.fchown(descriptor, *self._owner)
                os.utime(descriptor, ns=self._times_ns)
            finally:
                os.close(descriptor)
