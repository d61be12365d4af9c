"""One file or directory onto one place: the walk of a COPY, with --exclude, --include by --parents, hard links and types.

The rules are those of BuildKit's copier (tonistiigi/fsutil copy), found by reading it and by the conformance corpus.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import NamedTuple

from sandboxbuild.errors import InputError
from sandboxbuild.fstree.actions import (
    MakeDirectory,
    MakeHardlink,
    MakeNode,
    MakeSymlink,
    SetMetadata,
    WriteBytes,
    WriteFile,
)
from sandboxbuild.fstree.entry import Entry
from sandboxbuild.fstree.paths import decode, join
from sandboxbuild.fstree.patterns import ROOT, Patterns, Verdict
from sandboxbuild.fstree.tree import Tree
from sandboxbuild.plan.draft import Draft, Owner, shown
from sandboxbuild.plan.modes import ModeRule


class Rules(NamedTuple):
    """What holds for all files of one source. `owner` None keeps the source's; so does `mode` None."""

    origin: int
    owner: Owner | None
    mode: ModeRule | None
    exclude: Patterns
    include: Patterns  # none: everything

    def owner_of(self, entry: Entry) -> Owner:
        return self.owner or Owner(entry.uid, entry.gid)

    def mode_of(self, entry: Entry) -> int:
        return self.mode.apply(entry.mode) if self.mode is not None else stat.S_IMODE(entry.mode)


class _Frame:
    """A source directory that is being walked. `made` is false until it is known that something in it is taken."""

    __slots__ = ("entry", "excluded", "included", "made", "names", "relative", "target")

    def __init__(self, place: _Place, names: Iterator[bytes], made: bool, included: Verdict, excluded: Verdict) -> None:
        self.entry, self.relative, self.target = place
        self.names = names
        self.made = made
        self.included = included
        self.excluded = excluded


class _Place(NamedTuple):
    """A source entry, its path relative to what is copied (b"" for that itself), and where it goes."""

    entry: Entry
    relative: bytes
    target: bytes


class Transfer:
    """Copies one selected entry of `tree`. A new one for each: hard links are kept within one, not between two."""

    def __init__(self, draft: Draft, tree: Tree, rules: Rules) -> None:
        self._draft = draft
        self._tree = tree
        self._rules = rules
        self._first: dict[tuple[int, int], bytes] = {}
        self._stack: list[_Frame] = []
        self._taken = False

    def copy(self, entry: Entry, target: bytes) -> bool:
        """Copy `entry`, for a directory all that is in it, to be at `target`; the parent of `target` exists.

        Gives whether there was anything in it that is taken. Raises InputError where a directory and something else would meet.
        """
        place = _Place(entry, b"", target)
        if not entry.is_directory:
            self._write(place)
            return True
        self._enter(place, True, ROOT, ROOT)
        while self._stack:
            frame = self._stack[-1]
            name = next(frame.names, None)
            if name is None:
                self._stack.pop()
                continue
            child = self._tree.entry(join(frame.entry.path, name))
            if child is not None:
                self._visit(_Place(child, join(frame.relative, name), join(frame.target, name)), frame)
        return self._taken

    def _visit(self, place: _Place, parent: _Frame) -> None:
        path = decode(place.relative)
        included = self._rules.include.judge(path, parent.included)
        excluded = self._rules.exclude.judge(path, parent.excluded)
        taken = (included.taken or not self._rules.include) and not excluded.taken
        if taken:
            self._taken = True
            self._make_waiting()
        if place.entry.is_directory:
            if taken or self._may_hold_taken(path, included, excluded):
                self._enter(place, taken, included, excluded)
        elif taken:
            self._write(place)

    def _may_hold_taken(self, path: str, included: Verdict, excluded: Verdict) -> bool:
        if excluded.taken and not self._rules.exclude.may_release_below(path):
            return False
        return included.taken or not self._rules.include or self._rules.include.may_take_below(path)

    def _enter(self, place: _Place, taken: bool, included: Verdict, excluded: Verdict) -> None:
        if taken:
            self._make(place)
        names = iter(self._tree.children(place.entry.path))
        self._stack.append(_Frame(place, names, taken, included, excluded))

    def _make(self, place: _Place) -> None:
        """A directory that is taken: new ones get everything of the source's, those below the top even if they exist."""
        entry = place.entry
        if self._make_new(place):
            return
        if not place.relative:
            if place.target:
                self._draft.actions.append(SetMetadata(place.target, mtime_ns=entry.mtime_ns))
            return
        uid, gid = self._rules.owner_of(entry)
        mode = self._rules.mode_of(entry)
        self._draft.add(
            SetMetadata(place.target, mode, uid, gid, entry.mtime_ns, entry.xattrs),
            Entry(place.target, stat.S_IFDIR | mode, uid, gid),
        )

    def _make_new(self, place: _Place) -> bool:
        existing = self._draft.entry(place.target)
        if existing is not None:
            if not existing.is_directory:
                raise InputError(f"cannot copy a directory onto {shown(place.target)}, which is none")
            return False
        entry = place.entry
        uid, gid = self._rules.owner_of(entry)
        mode = self._rules.mode_of(entry)
        action = MakeDirectory(place.target, mode, uid, gid, entry.mtime_ns, entry.xattrs)
        self._draft.add(action, Entry(place.target, stat.S_IFDIR | mode, uid, gid))
        return True

    def _make_waiting(self) -> None:
        """The parents of something that is taken, which themselves match no pattern; those that exist get the mode alone."""
        for frame in self._stack:
            if frame.made:
                continue
            frame.made = True
            if not self._make_new(_Place(frame.entry, frame.relative, frame.target)):
                self._draft.actions.append(SetMetadata(frame.target, mode=stat.S_IMODE(frame.entry.mode)))

    def _write(self, place: _Place) -> None:
        entry, target = place.entry, place.target
        existing = self._draft.entry(target)
        if existing is not None and existing.is_directory:
            raise InputError(f"cannot replace the directory {shown(target)} by a file")
        uid, gid = self._rules.owner_of(entry)
        made = Entry(target, entry.mode, uid, gid, link_target=entry.link_target)
        if entry.is_symlink:
            self._draft.add(MakeSymlink(target, entry.link_target, uid, gid, entry.mtime_ns), made)
        elif entry.is_file:
            self._write_file(entry, made)
        elif stat.S_ISSOCK(entry.mode):
            self._draft.add(WriteBytes(target, b"", self._rules.mode_of(entry), uid, gid, entry.mtime_ns), made)
        else:
            mode = stat.S_IFMT(entry.mode) | self._rules.mode_of(entry)
            self._draft.add(MakeNode(target, mode, entry.rdev, uid, gid, entry.mtime_ns), made)

    def _write_file(self, entry: Entry, made: Entry) -> None:
        first = self._first.get(entry.inode) if entry.link_count > 1 and entry.inode != (0, 0) else None
        if first is not None:
            self._draft.add(MakeHardlink(made.path, first), made)
            return
        self._first[entry.inode] = made.path
        mode = self._rules.mode_of(entry)
        self._draft.add(
            WriteFile(made.path, self._rules.origin, entry, mode, made.uid, made.gid, entry.mtime_ns),
            made,
        )
