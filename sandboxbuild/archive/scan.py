"""Directories on disk as Entries: lstat, readlink and listxattr, by descriptor, following nothing, sorted by bytes."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import Final

from sandboxbuild.archive.nodes import PLACEHOLDER_XATTR, read_placeholder
from sandboxbuild.errors import LimitExceeded
from sandboxbuild.fstree.entry import Entry
from sandboxbuild.system.files import link_path, open_beneath

OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
CAPABILITY_XATTR: Final = "security.capability"
OVERLAY_XATTRS: Final = "user.overlay."
_OWN_PREFIX: Final = "user.sandboxbuild."
CAPABILITY_STAND_IN: Final = f"{_OWN_PREFIX}capability"  # where the kernel has no file capabilities
_NO_XATTRS: Final = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM)
MAX_ENTRIES: Final = 5_000_000
MAX_DEPTH: Final = 512


def keeps_xattr(name: str) -> bool:
    """Whether an attribute belongs in a layer: users' own, and file capabilities.

    Overlay's and ours describe the store. ACLs stay out because a directory of the host can pass its default ACL on to the
    files that we make, and labels (SELinux) because they are the host's.
    """
    if name == CAPABILITY_XATTR:
        return True
    return name.startswith("user.") and not name.startswith((OVERLAY_XATTRS, _OWN_PREFIX))


def scan_tree(root: str | bytes | int, *, max_entries: int = MAX_ENTRIES) -> Iterator[Entry]:
    """Every entry below `root` (a path or a descriptor), the root itself first, parents before children, names sorted by bytes.

    Sockets are left out: a layer can't hold them. Raises OSError if anything vanishes meanwhile, LimitExceeded.
    """
    root_fd = os.open(root if not isinstance(root, int) else link_path(root), OPEN_DIRECTORY & ~os.O_NOFOLLOW)
    try:
        yield read_descriptor(root_fd, b"")
        levels = [iter(list_directory(root_fd, b""))]
        while levels:
            entry = next(levels[-1], None)
            if entry is None:
                levels.pop()
                continue
            max_entries -= 1
            if max_entries < 0:
                raise LimitExceeded("a tree has too many entries to scan")
            yield entry
            if stat.S_ISDIR(entry.mode):
                levels.append(iter(_list_below(root_fd, entry.path, len(levels))))
    finally:
        os.close(root_fd)


def _list_below(root_fd: int, path: bytes, depth: int) -> list[Entry]:
    """The entries of a directory, which is open only meanwhile, so that depth costs no descriptors."""
    if depth > MAX_DEPTH:
        raise LimitExceeded(f"directories nest deeper than {MAX_DEPTH}: {path[:200]!r}")
    fd = open_beneath(root_fd, path, OPEN_DIRECTORY)
    try:
        return list_directory(fd, path)
    finally:
        os.close(fd)


def list_directory(directory_fd: int, path: bytes) -> list[Entry]:
    """The entries in a directory, sorted by name, without sockets; `path` is the directory's, b"" the root's."""
    prefix = path + b"/" if path else b""
    names = sorted(map(os.fsencode, os.listdir(directory_fd)))
    found = [read_entry(directory_fd, name, prefix + name) for name in names]
    return [entry for entry in found if not stat.S_ISSOCK(entry.mode)]


def read_entry(directory_fd: int, name: bytes, path: bytes) -> Entry:
    """The Entry of `name` in an open directory, under the path `path`; raises FileNotFoundError."""
    status = os.lstat(name, dir_fd=directory_fd)
    target = os.readlink(name, dir_fd=directory_fd) if stat.S_ISLNK(status.st_mode) else b""
    return _entry(path, status, target, _xattrs(b"/proc/self/fd/%d/%b" % (directory_fd, name)))


def read_descriptor(fd: int, path: bytes) -> Entry:
    """The Entry of an open file or directory."""
    return _entry(path, os.fstat(fd), b"", _xattrs(fd))


def _entry(path: bytes, status: os.stat_result, target: bytes, xattrs: tuple[tuple[str, bytes], ...]) -> Entry:
    mode = status.st_mode
    rdev = (os.major(status.st_rdev), os.minor(status.st_rdev)) if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else (0, 0)
    if xattrs:
        if stat.S_ISREG(mode) and status.st_size == 0:
            node = read_placeholder(dict(xattrs).get(PLACEHOLDER_XATTR, b""))
            if node is not None:
                mode, rdev = node[0] | stat.S_IMODE(mode), node[1]
        xattrs = tuple(pair for pair in xattrs if keeps_xattr(pair[0]))
    return Entry(
        path,
        mode,
        status.st_uid,
        status.st_gid,
        status.st_size if stat.S_ISREG(mode) else 0,
        status.st_mtime_ns,
        target,
        rdev,
        xattrs,
        (status.st_dev, status.st_ino),
        status.st_nlink,
        status.st_ctime_ns,
    )


def _xattrs(place: int | bytes) -> tuple[tuple[str, bytes], ...]:
    """All attributes that are ours to see, sorted by name."""
    follow = isinstance(place, int)
    try:
        names = os.listxattr(place, follow_symlinks=follow)
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return ()
        raise
    if not names:
        return ()
    wanted = sorted(name for name in names if keeps_xattr(name) or name in (PLACEHOLDER_XATTR, CAPABILITY_STAND_IN))
    found = {name: os.getxattr(place, name, follow_symlinks=follow) for name in wanted}
    if CAPABILITY_STAND_IN in found:
        found.setdefault(CAPABILITY_XATTR, found.pop(CAPABILITY_STAND_IN))
        wanted = sorted(found)
    return tuple((name, found[name]) for name in wanted)
