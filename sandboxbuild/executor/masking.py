"""The build context as a step may see it: without what the ignore file leaves out, and root's, as BuildKit's contexts are.

Where all of it is root's already, an overlay hides what is ignored by whiteouts; else the step gets a copy.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from sandboxbuild.dockerfile.ignore import IgnoreRules
from sandboxbuild.executor.copy import apply_actions
from sandboxbuild.executor.trees import DirectoryTree
from sandboxbuild.fstree.filtered import FilteredTree
from sandboxbuild.fstree.globs import has_wildcards
from sandboxbuild.fstree.paths import encode, join, rooted
from sandboxbuild.fstree.tree import FileTree, Tree
from sandboxbuild.plan.copying import copy_actions
from sandboxbuild.plan.operations import ContextSource, CopyOp
from sandboxbuild.system.clock import wall_ns
from sandboxbuild.system.files import remove_tree
from sandboxbuild.system.mounts import mount_overlay, unmount


class Mask(NamedTuple):
    """What has to be hidden, and the directories that have to be made in the upper one on the way to it."""

    hidden: tuple[bytes, ...]
    directories: tuple[bytes, ...]


@contextmanager
def masked_context(context: str, rules: IgnoreRules | None, below: str, scratch: str) -> Iterator[str]:
    """A writable view of `context` without what `rules` ignore, in which at least what is at `below` is root's.

    What is written to it never reaches the context.
    """
    folder = os.path.join(scratch, f"context-{os.urandom(8).hex()}")
    os.mkdir(folder, 0o755)
    descriptor = os.open(context, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with DirectoryTree(descriptor) as tree:
            kept = FilteredTree(tree, rules) if rules is not None else tree
            part = _part(tree, below)
            if _has_other_owners(kept, encode(part)):
                _copy(kept, descriptor, part, folder)
                yield folder
                return
            upper = _new_folder(folder, "upper")
            if rules is not None:
                _hide(tree, find_mask(tree, kept), upper)
        merged = _new_folder(folder, "merged")
        mount_overlay(merged, [context], upper, _new_folder(folder, "work"))
        try:
            yield merged
        finally:
            unmount(merged)
    finally:
        os.close(descriptor)
        _remove(scratch, os.path.basename(folder))


def _new_folder(parent: str, name: str) -> str:
    """Root's: the upper directory shows its own owner to the step."""
    path = os.path.join(parent, name)
    os.mkdir(path, 0o755)
    os.chown(path, 0, 0)
    return path


def _remove(scratch: str, name: str) -> None:
    parent = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        remove_tree(parent, name)
    finally:
        os.close(parent)


def _part(tree: Tree, below: str) -> str:
    """`below` as a path of its own, or "" for the whole tree where links or wildcards make another thing of it."""
    path = rooted(below)
    return "" if tree.entry(encode(path)) is None or has_wildcards(path) or "\\" in path else path


def _has_other_owners(tree: Tree, path: bytes) -> bool:
    waiting = [path]
    while waiting:
        entry = tree.entry(waiting.pop())
        if entry is not None and entry.path and (entry.uid or entry.gid):
            return True
        if entry is not None and entry.is_directory:
            waiting += [join(entry.path, name) for name in tree.children(entry.path)]
    return False


def _copy(tree: Tree, descriptor: int, part: str, folder: str) -> None:
    """As COPY would, into an empty folder; a part keeps its place."""
    os.chown(folder, 0, 0)
    op = CopyOp((ContextSource(),), ((f"/{part}",),), "/", parents=bool(part))
    apply_actions(folder, copy_actions(op, [tree], FileTree(), owner=None, now_ns=wall_ns()), [descriptor])


def _hide(tree: Tree, mask: Mask, upper: str) -> None:
    for directory in mask.directories:
        entry = tree.entry(directory)
        assert entry is not None
        path = os.path.join(os.fsencode(upper), directory)
        os.mkdir(path)
        os.chown(path, 0, 0)
        os.chmod(path, entry.permissions)
    for hidden in mask.hidden:
        os.mknod(os.path.join(os.fsencode(upper), hidden), stat.S_IFCHR | 0o600, 0)


def find_mask(tree: Tree, kept: Tree) -> Mask:
    """Compare a tree with what is left of it. A directory that is wholly ignored is hidden as one."""
    hidden: list[bytes] = []
    directories: list[bytes] = []
    waiting = [b""]
    while waiting:
        directory = waiting.pop()
        left = set(kept.children(directory))
        missing = [join(directory, name) for name in tree.children(directory) if name not in left]
        if missing:
            hidden += missing
            directories += _parents(directory)
        for name in left:
            child = join(directory, name)
            entry = tree.entry(child)
            if entry is not None and entry.is_directory:
                waiting.append(child)
    return Mask(tuple(hidden), tuple(sorted(set(directories))))


def _parents(directory: bytes) -> list[bytes]:
    """`directory` and what it is in, less the root."""
    parts = directory.split(b"/") if directory else []
    return [b"/".join(parts[:count]) for count in range(1, len(parts) + 1)]
