"""A workspace's own folder below scratch: made with a name of its own, and gone afterwards whatever is in it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager

from sandboxbuild.archive.metadata import Metadata, settle
from sandboxbuild.archive.scan import OPEN_DIRECTORY
from sandboxbuild.fstree.entry import Entry
from sandboxbuild.system.files import remove_tree

_numbers = itertools.count(1)


@contextmanager
def workspace_folder(scratch: str) -> Iterator[str]:
    """A fresh folder below `scratch`, which only we can enter."""
    while True:
        name = f"workspace-{next(_numbers)}"
        path = os.path.join(scratch, name)
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            continue
        break
    scratch_fd = os.open(scratch, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield path
    finally:
        try:
            remove_tree(scratch_fd, name)
        finally:
            os.close(scratch_fd)


def make_like(path: str, entry: Entry) -> None:
    """Make the directory `path` with the owner, mode, attributes and time of `entry`."""
    os.mkdir(path, 0o700)
    fd = os.open(path, OPEN_DIRECTORY)
    try:
        settle(fd, Metadata(entry.path, entry.permissions, entry.uid, entry.gid, entry.mtime_ns, entry.xattrs))
    finally:
        os.close(fd)
