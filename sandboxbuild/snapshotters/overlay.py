"""OverlaySnapshotter: a step's rootfs is an overlay of unpacked layers, and what it changed is the upper directory.

The snapshot reads the upper directory and the lower directories of the same paths, no more. Redirects and metadata-only copies
are off, so an upper directory is a layer that stands by itself; renaming a lower directory is EXDEV and programs then copy.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sandboxbuild.archive.scan import OPEN_DIRECTORY
from sandboxbuild.fstree.changes import Change, Changes
from sandboxbuild.snapshotters import Workspace
from sandboxbuild.snapshotters.copying import write_layer_directory
from sandboxbuild.snapshotters.difference import Difference
from sandboxbuild.snapshotters.folder import make_like, workspace_folder
from sandboxbuild.snapshotters.lower import LowerTree
from sandboxbuild.system import mounts


class OverlaySnapshotter:
    """Mounts overlays in the caller's mount namespace; needs the right to (root, or a user namespace's)."""

    name = "overlay"

    @contextmanager
    def workspace(self, parents: Sequence[str], scratch: str) -> Iterator[Workspace]:
        with workspace_folder(scratch) as folder:
            workspace = _OverlayWorkspace(tuple(parents), folder)
            try:
                workspace.mount()
                yield workspace
            finally:
                workspace.unmount()


class _OverlayWorkspace:
    def __init__(self, parents: tuple[str, ...], folder: str) -> None:
        self.root = os.path.join(folder, "merged")
        self._parents = parents
        self._folder = folder
        self._upper = self.written = os.path.join(folder, "upper")
        self._mounted = False

    def mount(self) -> None:
        """Make the folders and mount. The merged root is the upper one's, so that is made like the root below it."""
        with LowerTree(self._parents) as lower:
            root = lower.root().entry
        work = os.path.join(self._folder, "work")
        make_like(self._upper, root)
        os.mkdir(work, 0o700)
        os.mkdir(self.root, 0o700)
        lowers = list(reversed(self._parents))
        if not lowers:
            lowers = [os.path.join(self._folder, "empty")]
            make_like(lowers[0], root)
        mounts.mount_overlay(self.root, lowers, self._upper, work)
        self._mounted = True

    def unmount(self) -> None:
        if self._mounted:
            self._mounted = False
            mounts.unmount(self.root)

    def changes(self) -> Changes:
        return Changes(self._upper, self._difference())

    def commit(self, target: str) -> None:
        self.unmount()
        try:
            os.rename(self._upper, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._copy_to(target)

    def _copy_to(self, target: str) -> None:
        """Commit to another filesystem: gVisor wants upper directories on a tmpfs, and the store isn't."""
        with LowerTree(self._parents) as lower:
            root_fd = os.open(self._upper, OPEN_DIRECTORY)
            try:
                write_layer_directory(Difference(root_fd, lower, complete=False).changes(), root_fd, target)
            finally:
                os.close(root_fd)

    def _difference(self) -> Iterator[Change]:
        with LowerTree(self._parents) as lower:
            root_fd = os.open(self._upper, OPEN_DIRECTORY)
            try:
                yield from Difference(root_fd, lower, complete=False).changes()
            finally:
                os.close(root_fd)
