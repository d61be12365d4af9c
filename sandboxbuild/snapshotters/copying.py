"""The two copies of the walk snapshotter: lower layers -> a plain tree, and a tree's changes -> a layer of the store's form."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable
from functools import partial

from sandboxbuild.archive.metadata import Metadata, settle, settle_link, settle_node
from sandboxbuild.archive.nodes import make_node, make_whiteout
from sandboxbuild.archive.scan import OPEN_DIRECTORY, OVERLAY_XATTRS, read_descriptor
from sandboxbuild.fstree.changes import Change, Delete
from sandboxbuild.fstree.entry import Entry
from sandboxbuild.snapshotters.folder import make_like
from sandboxbuild.snapshotters.lower import Found, LowerTree
from sandboxbuild.system.files import copy_range, link_path, open_beneath, open_directory

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PARENT = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def copy_merged(lower: LowerTree, root_fd: int) -> None:
    """Copy the merged tree into the empty directory `root_fd`.

    Each name becomes an inode of its own, as with overlay, which copies up one name of a file and leaves its other names alone.
    """
    root = lower.root()
    directories = [root]
    for found in directories:  # grows while it is walked
        fd = open_beneath(root_fd, found.entry.path or b".", _PARENT)
        try:
            directories += _copy_directory(lower, found, fd)
        finally:
            os.close(fd)
    for found in reversed(directories):
        fd = open_beneath(root_fd, found.entry.path or b".", OPEN_DIRECTORY)
        try:
            settle(fd, _metadata(found.entry))
        finally:
            os.close(fd)


def _copy_directory(lower: LowerTree, directory: Found, fd: int) -> list[Found]:
    """Copy the files of one directory and make its directories, which are returned, to be filled and settled."""
    made = []
    with lower.directory(directory.entry.path, directory.layers) as below:
        for name in sorted(below.names()):
            found = below.find(name)
            if found is None:
                continue
            if stat.S_ISDIR(found.entry.mode):
                os.mkdir(name, 0o700, dir_fd=fd)
                made.append(found)
            else:
                _copy_file(partial(lower.open, found.layers[0], found.entry.path), found.entry, fd, name)
    return made


def _copy_file(open_source: Callable[[int], int], entry: Entry, directory_fd: int, name: bytes) -> None:
    """Make `name` a copy of what isn't a directory. `open_source` takes the flags to open its content with."""
    if stat.S_ISLNK(entry.mode):
        os.symlink(entry.link_target, name, dir_fd=directory_fd)
        settle_link(directory_fd, name, _metadata(entry))
        return
    if not stat.S_ISREG(entry.mode):
        make_node(directory_fd, name, stat.S_IFMT(entry.mode), entry.rdev)
        settle_node(directory_fd, name, _metadata(entry))
        return
    source = open_source(os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fd = os.open(name, _NEW_FILE, 0o600, dir_fd=directory_fd)
        try:
            copy_range(source, fd, entry.size_bytes)
            settle(fd, _metadata(entry))
        finally:
            os.close(fd)
    finally:
        os.close(source)


def write_layer_directory(changes: Iterable[Change], root_fd: int, target: str) -> None:
    """Make `target`, absent, the unpacked layer of what changed in the tree at `root_fd`; that tree is used up."""
    found = list(changes)
    root = read_descriptor(root_fd, b"")
    make_like(target, root)
    target_fd = os.open(target, OPEN_DIRECTORY)
    try:
        _move_changes(found, root_fd, target_fd)
        os.utime(target_fd, ns=(root.mtime_ns, root.mtime_ns))
    finally:
        os.close(target_fd)


def _move_changes(changes: Iterable[Change], root_fd: int, target_fd: int) -> None:
    """Put what changed from the tree at `root_fd` into the empty directory `target_fd`, as an overlay's lower directory.

    Files are moved where both lie on one filesystem, else copied.
    """
    times: list[tuple[bytes, int]] = []
    copied: dict[tuple[int, int], bytes] = {}
    for change in changes:
        path = change.path if isinstance(change, Delete) else change.entry.path
        if not path:
            continue
        parent, _, name = path.rpartition(b"/")
        to_fd = open_beneath(target_fd, parent or b".", _PARENT)
        try:
            if isinstance(change, Delete):
                make_whiteout(to_fd, name)
            elif stat.S_ISDIR(change.entry.mode):
                _make_directory(to_fd, name, change.entry)
                times.append((path, change.entry.mtime_ns))
            elif not _move(root_fd, parent, to_fd, name):
                _copy_linked(root_fd, change.entry, target_fd, to_fd, copied)
        finally:
            os.close(to_fd)
    for path, mtime_ns in times:
        fd = open_beneath(target_fd, path, _PARENT)
        try:
            os.utime(link_path(fd), ns=(mtime_ns, mtime_ns))
        finally:
            os.close(fd)


def _make_directory(parent_fd: int, name: bytes, entry: Entry) -> None:
    os.mkdir(name, 0o700, dir_fd=parent_fd)
    fd = open_directory(name, parent_fd)
    try:
        settle(fd, _metadata(entry))
    finally:
        os.close(fd)


def _move(root_fd: int, parent: bytes, to_fd: int, name: bytes) -> bool:
    """Move a file; False if that would lead to another filesystem."""
    from_fd = open_beneath(root_fd, parent or b".", _PARENT)
    try:
        os.rename(name, name, src_dir_fd=from_fd, dst_dir_fd=to_fd)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    finally:
        os.close(from_fd)
    # On a plain tree a step may set attributes that would speak to an overlay mounted on this layer.
    place = b"%b/%b" % (link_path(to_fd).encode(), name)
    for attribute in os.listxattr(place, follow_symlinks=False):
        if attribute.startswith(OVERLAY_XATTRS):
            os.removexattr(place, attribute, follow_symlinks=False)
    return True


def _copy_linked(root_fd: int, entry: Entry, target_fd: int, to_fd: int, copied: dict[tuple[int, int], bytes]) -> None:
    """Copy a file; a further name of one that was copied becomes a link to it. `copied` has the first names by inode."""
    name = entry.path.rpartition(b"/")[2]
    first = copied.setdefault(entry.inode, entry.path) if entry.link_count > 1 else entry.path
    if first == entry.path:
        _copy_file(lambda flags: open_beneath(root_fd, entry.path, flags), entry, to_fd, name)
        return
    parent, _, first_name = first.rpartition(b"/")
    first_fd = open_beneath(target_fd, parent or b".", _PARENT)
    try:
        os.link(first_name, name, src_dir_fd=first_fd, dst_dir_fd=to_fd, follow_symlinks=False)
    finally:
        os.close(first_fd)


def _metadata(entry: Entry) -> Metadata:
    return Metadata(entry.path, entry.permissions, entry.uid, entry.gid, entry.mtime_ns, entry.xattrs)
