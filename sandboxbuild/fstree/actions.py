"""FileActions: what COPY, ADD and WORKDIR do to a rootfs, decided without touching it.

Each `path` is relative to the rootfs, fully resolved (no symlink in its parents) and without a leading slash. Actions are
carried out in order, by descriptor, and following no symlink.
"""

from __future__ import annotations

from typing import NamedTuple, Union

from sandboxbuild.fstree.entry import Entry


class MakeDirectory(NamedTuple):
    """Make a directory that isn't there. `mtime_ns` is set after everything in it is written; None leaves the clock's."""

    path: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int | None = None
    xattrs: tuple[tuple[str, bytes], ...] = ()


class SetMetadata(NamedTuple):
    """Change owner, mode or times of what exists; None leaves a field as it is."""

    path: bytes
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    mtime_ns: int | None = None
    xattrs: tuple[tuple[str, bytes], ...] = ()


class Remove(NamedTuple):
    """Remove what is there, with all below it."""

    path: bytes


class WriteFile(NamedTuple):
    """Put a new inode at `path`: whatever file or link of that name was there is unlinked, never written through.

    `origin` is the number of the CopyOp's source tree and `source` the entry there (its path is the content's path; its
    inode pairs hard links within one COPY). `mode`, `uid`, `gid`, `mtime_ns` are those of the result.
    """

    path: bytes
    origin: int
    source: Entry
    mode: int
    uid: int
    gid: int
    mtime_ns: int


class WriteBytes(NamedTuple):
    """A file whose content is known: heredocs."""

    path: bytes
    content: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int


class MakeSymlink(NamedTuple):
    path: bytes
    target: bytes
    uid: int
    gid: int
    mtime_ns: int


class MakeHardlink(NamedTuple):
    """`existing` was written earlier by the same action list."""

    path: bytes
    existing: bytes


class MakeNode(NamedTuple):
    """A FIFO or device; `mode` holds the type too. A socket arrives as an empty file (WriteBytes), as BuildKit has it."""

    path: bytes
    mode: int
    rdev: tuple[int, int]
    uid: int
    gid: int
    mtime_ns: int


class UnpackArchive(NamedTuple):
    """Unpack the archive at `source` into the directory `path` (made already); None keeps the archive's owners."""

    path: bytes
    origin: int
    source: Entry
    uid: int | None = None
    gid: int | None = None


FileAction = Union[
    MakeDirectory, SetMetadata, Remove, WriteFile, WriteBytes, MakeSymlink, MakeHardlink, MakeNode, UnpackArchive
]
