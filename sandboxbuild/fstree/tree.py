"""Tree: the one question that pure code asks of a filesystem, and its answer from memory."""

from __future__ import annotations

from typing import Protocol

from sandboxbuild.fstree.entry import Entry


class Tree(Protocol):
    """Looks things up below one root. Follows no symlink; the caller resolves. Paths as in Entry. Not thread-safe."""

    def entry(self, path: bytes) -> Entry | None:
        """What is at `path`, or None. A parent that is no directory means None."""

    def children(self, path: bytes) -> tuple[bytes, ...]:
        """The names in the directory `path`, sorted by bytes; empty if it is none."""
