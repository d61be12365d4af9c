"""Tree: the one question that pure code asks of a filesystem, its answer from memory, and paths resolved inside a root."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from sandboxbuild.errors import InputError
from sandboxbuild.fstree.entry import Entry
from sandboxbuild.fstree.paths import decode, join, name_of, parent_of

MAX_LINKS = 255  # as containerd's RootPath, which BuildKit resolves with


class Lookup(Protocol):
    """The half of a Tree that resolving paths needs."""

    def entry(self, path: bytes) -> Entry | None:
        """What is at `path`, or None. A parent that is no directory means None."""


class Tree(Lookup, Protocol):
    """Looks things up below one root. Follows no symlink; the caller resolves. Paths as in Entry. Not thread-safe."""

    def children(self, path: bytes) -> tuple[bytes, ...]:
        """The names in the directory `path`, sorted by bytes; empty if it is none."""


class FileTree:
    """A tree in memory. Parents that no entry names are directories, 0755 and root's, and so is the root."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._entries = {b"": Entry(b"", stat.S_IFDIR | 0o755)}
        self._names: dict[bytes, set[bytes]] = {b"": set()}
        for entry in entries:
            self._add(entry)

    def _add(self, entry: Entry) -> None:
        self._entries[entry.path] = entry
        path = entry.path
        while path:
            parent = parent_of(path)
            names = self._names.setdefault(parent, set())
            if name_of(path) in names:
                return
            names.add(name_of(path))
            self._entries.setdefault(parent, Entry(parent, stat.S_IFDIR | 0o755))
            path = parent

    def entry(self, path: bytes) -> Entry | None:
        return self._entries.get(path)

    def children(self, path: bytes) -> tuple[bytes, ...]:
        return tuple(sorted(self._names.get(path, ())))


class Resolved(NamedTuple):
    """A path without links, `.` or `..`; `entry` is None where nothing is there yet."""

    path: bytes
    entry: Entry | None


def resolve(tree: Lookup, path: bytes) -> Resolved:
    """Follow `path` as a process whose root is the tree's: links stay inside, the last one is followed too.

    What doesn't exist is taken as a name, so the result may be something to create. Raises InputError for more than
    MAX_LINKS links or a file in the middle of the path.
    """
    waiting = path.split(b"/")[::-1]
    current, entry, links = b"", tree.entry(b""), 0
    while waiting:
        name = waiting.pop()
        if name in (b"", b"."):
            continue
        if name == b"..":
            current = parent_of(current)
            entry = tree.entry(current)
            continue
        if entry is not None and not entry.is_directory:
            raise InputError(f"/{decode(current)}: not a directory")
        candidate = join(current, name)
        entry = tree.entry(candidate)
        if entry is None or not entry.is_symlink:
            current = candidate
            continue
        links += 1
        if links > MAX_LINKS:
            raise InputError(f"/{decode(path)}: too many symbolic links")
        waiting.extend(entry.link_target.split(b"/")[::-1])
        current = b"" if entry.link_target.startswith(b"/") else current
        entry = tree.entry(current)
    return Resolved(current, entry)
