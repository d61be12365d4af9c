"""WalkSnapshotter: a step's rootfs is a copy of its layers, and what it changed is found by comparing lstat before and after.

For hosts where overlay can't be mounted. Inode and ctime say which files were not touched, as nothing can set a ctime; of
the others metadata, and content where metadata doesn't tell, is compared with the lower layers, by overlay's own rule.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from sandboxbuild.archive.scan import OPEN_DIRECTORY, scan_tree
from sandboxbuild.errors import SandboxbuildError
from sandboxbuild.fstree.changes import Change, Changes
from sandboxbuild.fstree.entry import Entry
from sandboxbuild.snapshotters import Workspace
from sandboxbuild.snapshotters.copying import copy_merged, write_layer_directory
from sandboxbuild.snapshotters.difference import Difference
from sandboxbuild.snapshotters.folder import make_like, workspace_folder
from sandboxbuild.snapshotters.lower import LowerTree

# Kernels keep ctime in steps of a timer tick, 10 ms at most: what changed this recently could change again unseen.
_TICK_NS: Final = 20_000_000


class WalkSnapshotter:
    """Needs no mount, only the right to give files their owners."""

    name = "walk"

    @contextmanager
    def workspace(self, parents: Sequence[str], scratch: str) -> Iterator[Workspace]:
        with workspace_folder(scratch) as folder:
            root = os.path.join(folder, "root")
            with LowerTree(parents) as lower:
                make_like(root, lower.root().entry)
                root_fd = os.open(root, OPEN_DIRECTORY)
                try:
                    workspace = _WalkWorkspace(root, root_fd, lower)
                    workspace.fill()
                    yield workspace
                finally:
                    os.close(root_fd)


class _WalkWorkspace:
    def __init__(self, root: str, root_fd: int, lower: LowerTree) -> None:
        self.root = self.written = root
        self._root_fd = root_fd
        self._lower = lower
        self._before: dict[bytes, tuple[int, int]] = {}

    def fill(self) -> None:
        """Copy the layers, and note how everything looks before the step."""
        try:
            copy_merged(self._lower, self._root_fd)
            self._before = _signatures(self._root_fd)
        except OSError as error:
            raise SandboxbuildError(f"the layers can't be copied for a step: {error}") from error

    def changes(self) -> Changes:
        return Changes(self.root, self._difference())

    def commit(self, target: str) -> None:
        write_layer_directory(self._difference(), self._root_fd, target)

    def _difference(self) -> Iterator[Change]:
        return Difference(self._root_fd, self._lower, complete=True, unchanged=self._is_unchanged).changes()

    def _is_unchanged(self, entry: Entry) -> bool:
        return self._before.get(entry.path) == (entry.inode[1], entry.ctime_ns)


def _signatures(root_fd: int) -> dict[bytes, tuple[int, int]]:
    """(inode, ctime_ns) of each path that can't change again without showing it."""
    settled_ns = time.time_ns() - _TICK_NS
    return {entry.path: (entry.inode[1], entry.ctime_ns) for entry in scan_tree(root_fd) if entry.ctime_ns < settled_ns}
