"""Unpacked layers by ChainID, ready to be a lower directory: `layers/<hex>/fs`, with `layers/<hex>/made` from its commit.

The folder around `fs` belongs to the store's owner, whatever the layer's own root is, so that it can be renamed away.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sandboxbuild.oci.digest import encoded_of, parse_digest
from sandboxbuild.store.disk import NEW_FILE, disk_errors, fresh_name, write_all
from sandboxbuild.store.leases import using
from sandboxbuild.store.scratch import Scratch

TREE: Final = "fs"
PLAIN: Final = "plain"  # beside it, empty, where the tree has no whiteouts, attributes or devices
MADE: Final = "made"  # its content is the tree's size in bytes if that is known, its mtime the time of the commit


class Layers:
    """Thread-safe, and safe with other processes."""

    __slots__ = ("_scratch",)

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch

    def path(self, chain_id: str) -> str | None:
        """The unpacked layer's directory, or None; marks it as used, so that a live build keeps it."""
        name = encoded_of(parse_digest(chain_id))
        root = self._scratch.root
        with using(root):
            try:
                os.utime(name, dir_fd=root.folder("layers"), follow_symlinks=False)
            except OSError:
                return None
        return f"{root.path}/layers/{name}/{TREE}"

    def is_plain(self, chain_id: str) -> bool:
        """Whether an unpacked layer is known to be one that any filesystem holds as it is."""
        name = encoded_of(parse_digest(chain_id))
        return os.path.lexists(f"{self._scratch.root.path}/layers/{name}/{PLAIN}")

    @contextmanager
    def staging(self) -> Iterator[str]:
        """The path of a fresh, empty folder (0700) in the store; what is left of it at the end is removed.

        What is to be committed must be made in it: rename(2) doesn't cross mounts, not even of one filesystem.
        """
        name = fresh_name("layer")
        root = self._scratch.root
        os.close(root.make_folder(self._scratch.fd, name))
        try:
            yield f"{self._scratch.path}/{name}"
        finally:
            self._scratch.remove(name)

    def commit(self, staging: str, chain_id: str, size_bytes: int | None = None, *, is_plain: bool = False) -> str:
        """Make the directory `staging` (or one in it) the unpacked layer `chain_id`; gives its new path. `is_plain` is noted.

        If another process was first, its tree stays and this one is removed. Raises LimitExceeded if the disk is full.
        """
        name = encoded_of(parse_digest(chain_id))
        root = self._scratch.root
        wrapper = fresh_name("commit")
        with disk_errors(root.path):
            fd = root.make_folder(self._scratch.fd, wrapper)
            try:
                _note_made(fd, size_bytes, root.path)
                if is_plain:
                    os.close(os.open(PLAIN, NEW_FILE, 0o644, dir_fd=fd))
                os.rename(staging, TREE, dst_dir_fd=fd)
                self._publish(wrapper, name)
            finally:
                os.close(fd)
                self._scratch.remove(wrapper)
        return f"{root.path}/layers/{name}/{TREE}"

    def _publish(self, wrapper: str, name: str) -> None:
        folder = self._scratch.root.folder("layers")
        with using(self._scratch.root):
            try:
                os.rename(wrapper, name, src_dir_fd=self._scratch.fd, dst_dir_fd=folder)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
            os.utime(name, dir_fd=folder, follow_symlinks=False)


def _note_made(folder_fd: int, size_bytes: int | None, place: str) -> None:
    fd = os.open(MADE, NEW_FILE, 0o644, dir_fd=folder_fd)
    try:
        if size_bytes is not None:
            write_all(fd, b"%d" % size_bytes, place)
    finally:
        os.close(fd)
