"""The build context as a step may see it: an overlay in which what the ignore file leaves out is hidden by whiteouts."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from sandboxbuild.dockerfile.ignore import IgnoreRules
from sandboxbuild.executor.trees import DirectoryTree
from sandboxbuild.fstree.filtered import FilteredTree
from sandboxbuild.fstree.paths import join
from sandboxbuild.system.files import remove_tree
from sandboxbuild.system.mounts import mount_overlay, unmount


class Mask(NamedTuple):
    """What has to be hidden, and the directories that have to be made in the upper one on the way to it."""

    hidden: tuple[bytes, ...]
    directories: tuple[bytes, ...]


@contextmanager
def masked_context(context: str, rules: IgnoreRules | None, scratch: str) -> Iterator[str]:
    """A writable view of `context` without what `rules` ignore. What is written to it never reaches the context."""
    folder = os.path.join(scratch, f"context-{os.urandom(8).hex()}")
    for name in ("", "upper", "work", "merged"):
        os.mkdir(os.path.join(folder, name), 0o755)
    merged = os.path.join(folder, "merged")
    try:
        _hide(context, rules, os.path.join(folder, "upper"))
        mount_overlay(merged, [context], os.path.join(folder, "upper"), os.path.join(folder, "work"))
        try:
            yield merged
        finally:
            unmount(merged)
    finally:
        parent = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove_tree(parent, os.path.basename(folder))
        finally:
            os.close(parent)


def _hide(context: str, rules: IgnoreRules | None, upper: str) -> None:
    if rules is None:
        return
    descriptor = os.open(context, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with DirectoryTree(descriptor) as tree:
            mask = find_mask(tree, FilteredTree(tree, rules))
            for directory in mask.directories:
                entry = tree.entry(directory)
                assert entry is not None
                path = os.path.join(os.fsencode(upper), directory)
                os.mkdir(path)
                os.chmod(path, entry.permissions)
        for path in mask.hidden:
            os.mknod(os.path.join(os.fsencode(upper), path), stat.S_IFCHR | 0o600, 0)
    finally:
        os.close(descriptor)


def find_mask(tree: DirectoryTree, kept: FilteredTree) -> Mask:
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
