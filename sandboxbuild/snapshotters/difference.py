"""What makes one tree out of another, path by path: the rule by which both snapshotters say what changed.

A layer is a function of two trees, the merged lower layers and the tree after the step, and of nothing else; so both
snapshotters write the same bytes, and how a change came about leaves no trace. The rule:

- a path that only the lower tree has is deleted; of a directory only the topmost deletion is said;
- a path that is new, or whose type, mode, owner, time, attributes, target, device or content differs, is there again;
- a regular file with several names is there again under each: overlay copies files up one name at a time, so names of
  one inode come from this step alone, and a layer has to hold all of them or none;
- directories above something that changed are said too, as images must not depend on how an unpacker makes parents;
- the root is said if its mode, owner or attributes differ; its time never counts;
- opaque directories are never written: what they would hide is deleted by name;
- sockets are nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from sandboxbuild.archive.directories import shown
from sandboxbuild.archive.scan import MAX_DEPTH, MAX_ENTRIES, OPEN_DIRECTORY, list_directory, read_descriptor
from sandboxbuild.errors import LimitExceeded, SandboxbuildError
from sandboxbuild.fstree.changes import Change, Delete, Upsert
from sandboxbuild.fstree.entry import Entry
from sandboxbuild.snapshotters.lower import Found, LowerDirectory, LowerTree, is_opaque
from sandboxbuild.system.files import open_beneath

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CHUNK: Final = 1 << 20


class _Child(NamedTuple):
    """A name of one directory, judged: `entry` is None for a deletion. `below` is the lower directory to compare with."""

    path: bytes
    entry: Entry | None
    differs: bool
    below: tuple[int, ...] = ()
    complete: bool = False


class Difference:
    """Compares the tree at `root_fd` (borrowed) with `lower`.

    The tree is `complete`, or an overlay's upper directory: then what it lacks is as below, and devices 0:0 are deletions.
    `unchanged` may answer for paths that are known not to have been touched.
    """

    def __init__(
        self, root_fd: int, lower: LowerTree, *, complete: bool, unchanged: Callable[[Entry], bool] = lambda _: False
    ) -> None:
        self._root_fd = root_fd
        self._lower = lower
        self._complete = complete
        self._unchanged = unchanged
        self._pending: list[Entry] = []
        self._left = MAX_ENTRIES

    def changes(self) -> Iterator[Change]:
        """The changes, parents first, names sorted by bytes. Raises SandboxbuildError if anything can't be read."""
        try:
            root = read_descriptor(self._root_fd, b"")
            found = self._lower.root()
            if not _same_inode_fields(root._replace(mtime_ns=0), found.entry._replace(mtime_ns=0)):
                yield Upsert(root)
            yield from self._below(found.layers)
        except OSError as error:
            raise SandboxbuildError(
                f"the step's files can't be read for its layer: {error}",
                hint="a process that still writes, or a disk that fails; the layer was not made",
            ) from error

    def _below(self, layers: tuple[int, ...]) -> Iterator[Change]:
        """The changes below the root. Directories are entered by path from there, so that depth costs no descriptors."""
        levels = [iter(self._children(b"", layers, self._complete))]
        above: list[Entry | None] = [None]
        while levels:
            child = next(levels[-1], None)
            if child is None:
                levels.pop()
                left = above.pop()
                if self._pending and self._pending[-1] is left:
                    self._pending.pop()
                continue
            if child.differs:
                yield from self._announce_parents()
                yield Upsert(child.entry) if child.entry else Delete(child.path)
            if child.entry is None or not stat.S_ISDIR(child.entry.mode):
                continue
            if not child.differs:
                self._pending.append(child.entry)
            if len(levels) > MAX_DEPTH:
                raise LimitExceeded(f"directories nest deeper than {MAX_DEPTH}: {shown(child.path[:200])}")
            levels.append(iter(self._children(child.path, child.below, child.complete)))
            above.append(child.entry)

    def _announce_parents(self) -> Iterator[Change]:
        pending, self._pending = self._pending, []
        for entry in pending:
            yield Upsert(entry)

    def _children(self, path: bytes, layers: tuple[int, ...], complete: bool) -> list[_Child]:
        """What is to say of each name in one directory, sorted."""
        fd = open_beneath(self._root_fd, path or b".", OPEN_DIRECTORY)
        try:
            entries = list_directory(fd, path)
            self._left -= len(entries)
            if self._left < 0:
                raise LimitExceeded(f"a step leaves more than {MAX_ENTRIES} files")
            with self._lower.directory(path, layers) as below:
                judged = [self._judge(fd, entry, below, complete) for entry in entries]
                gone = self._gone(fd, path, entries, below, complete)
        finally:
            os.close(fd)
        children = [child for child in judged if child is not None]
        return sorted(children + gone, key=lambda child: child.path) if gone else children

    def _judge(self, fd: int, entry: Entry, below: LowerDirectory, complete: bool) -> _Child | None:
        is_directory = stat.S_ISDIR(entry.mode)
        if not is_directory and self._unchanged(entry):
            return None
        name = entry.path.rpartition(b"/")[2]
        found = below.find(name)
        if is_hidden(entry):
            return _Child(entry.path, None, True) if found else None
        if is_directory:
            merged = found is not None and stat.S_ISDIR(found.entry.mode)
            layers = found.layers if found and merged else ()
            differs = found is None or not _same_inode_fields(entry, found.entry)
            return _Child(entry.path, entry, differs, layers, complete or is_opaque(fd, name))
        if found is not None and self._same_file(fd, name, entry, found):
            return None
        return _Child(entry.path, entry, True)

    def _gone(self, fd: int, path: bytes, entries: list[Entry], below: LowerDirectory, complete: bool) -> list[_Child]:
        """Deletions of names that the lower directory has and this one hasn't: all of them, or those that sockets replaced."""
        here = {entry.path.rpartition(b"/")[2] for entry in entries}
        candidates = below.names() if complete else set(map(os.fsencode, os.listdir(fd)))
        prefix = path + b"/" if path else b""
        return [_Child(prefix + name, None, True) for name in sorted(candidates - here) if below.find(name) is not None]

    def _same_file(self, fd: int, name: bytes, entry: Entry, found: Found) -> bool:
        """Whether what isn't a directory is as it was; reads both files if nothing less tells."""
        if not _same_inode_fields(entry, found.entry):
            return False
        if not stat.S_ISREG(entry.mode):
            return True
        if entry.link_count > 1 or entry.size_bytes != found.entry.size_bytes:
            return False
        if not entry.size_bytes:
            return True
        mine = os.open(name, _READ, dir_fd=fd)
        try:
            theirs = self._lower.open(found.layers[0], entry.path, _READ)
            try:
                return _same_content(mine, theirs)
            finally:
                os.close(theirs)
        finally:
            os.close(mine)


def is_hidden(entry: Entry) -> bool:
    """Whether an entry is overlay's sign that its name is gone. Stand-ins for devices are regular files on disk."""
    return stat.S_ISCHR(entry.mode) and entry.rdev == (0, 0)


def _same_inode_fields(one: Entry, other: Entry) -> bool:
    return (
        one.mode == other.mode
        and one.uid == other.uid
        and one.gid == other.gid
        and one.mtime_ns == other.mtime_ns
        and one.link_target == other.link_target
        and one.rdev == other.rdev
        and one.xattrs == other.xattrs
    )


def _same_content(one: int, other: int) -> bool:
    while True:
        data = os.read(one, _CHUNK)
        if data != os.read(other, _CHUNK):
            return False
        if not data:
            return True
