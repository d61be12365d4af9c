"""The target of a COPY while its actions are decided: the tree as it is, what was decided so far, and the list of it."""

from __future__ import annotations

import stat
from typing import NamedTuple

from sandboxbuild.errors import InputError
from sandboxbuild.fstree.actions import FileAction, MakeDirectory
from sandboxbuild.fstree.entry import Entry
from sandboxbuild.fstree.paths import join
from sandboxbuild.fstree.tree import Lookup, Resolved, resolve


class Owner(NamedTuple):
    uid: int
    gid: int


class Draft:
    """Collects actions and answers, as a Lookup, what will be there once they are carried out."""

    __slots__ = ("_made", "_target", "actions", "now_ns")

    def __init__(self, target: Lookup, now_ns: int) -> None:
        self._target = target
        self._made: dict[bytes, Entry] = {}
        self.now_ns = now_ns
        self.actions: list[FileAction] = []

    def entry(self, path: bytes) -> Entry | None:
        return self._made.get(path) or self._target.entry(path)

    def add(self, action: FileAction, entry: Entry) -> None:
        """Record an action whose result is `entry`."""
        self.actions.append(action)
        self._made[entry.path] = entry

    def make_directories(self, path: bytes, mode: int, owner: Owner | None) -> Resolved:
        """Resolve `path` and make what is missing of it, all with `mode` and `owner`; returns the directory.

        Without an owner it is root's. mkdir(2): in a setgid directory a new one inherits group and bit. Raises InputError if
        something on the way is no directory.
        """
        found = resolve(self, path)
        if found.entry is not None:
            if not found.entry.is_directory:
                raise InputError(f"{shown(found.path)}: not a directory")
            return found
        current = b""
        for name in found.path.split(b"/"):
            current = join(current, name)
            if self.entry(current) is None:
                self._make_directory(current, mode, owner)
        return Resolved(found.path, self.entry(found.path))

    def _make_directory(self, path: bytes, mode: int, owner: Owner | None) -> None:
        parent = self.entry(path.rpartition(b"/")[0])
        inherits = parent is not None and bool(parent.mode & stat.S_ISGID)
        uid, gid = owner or (0, parent.gid if parent is not None and inherits else 0)
        mode = mode & 0o777 | (stat.S_ISGID if inherits else 0)
        made = Entry(path, stat.S_IFDIR | mode, uid, gid)
        self.add(MakeDirectory(path, mode, uid, gid, self.now_ns), made)


def shown(path: bytes) -> str:
    """A path for a message."""
    return "/" + path.decode("utf-8", "backslashreplace")
