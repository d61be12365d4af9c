"""Archives that ADD unpacks: what counts as one, and how it goes onto an image's tree."""

from __future__ import annotations

import os

from sandboxbuild.archive import compress
from sandboxbuild.archive.directories import shown
from sandboxbuild.archive.hiding import IgnoringHiding
from sandboxbuild.archive.member import ArchiveLimits
from sandboxbuild.archive.reader import TarReader
from sandboxbuild.archive.scan import OPEN_DIRECTORY
from sandboxbuild.archive.unpack import Unpacker
from sandboxbuild.errors import InputError, SandboxbuildError
from sandboxbuild.system.files import open_in_root

_PROBE = ArchiveLimits(entries=64, header_bytes=1 << 20)
_PROBE_BYTES = 4 << 20


class _Descriptor:
    """A file, read from its start without moving its offset; a Readable."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._at = 0

    def read(self, n: int, /) -> bytes:
        data = os.pread(self._fd, n, self._at)
        self._at += len(data)
        return data


def is_archive(fd: int) -> bool:
    """Whether the regular file `fd` is a tar, plain or compressed, with at least one entry that can be read.

    So a broken archive is an ordinary file, which ADD copies; its name doesn't matter (as in BuildKit).
    """
    if os.fstat(fd).st_size < 16:
        return False
    try:
        plain = compress.decompressor(_Descriptor(fd), limit_bytes=_PROBE_BYTES)
        return TarReader(plain, _PROBE, nameless=True).next_member() is not None
    except SandboxbuildError:
        return False


def unpack_archive(
    source_fd: int,
    root_fd: int,
    destination: bytes,
    *,
    uid: int | None = None,
    gid: int | None = None,
    limits: ArchiveLimits | None = None,
    clamps: bool = False,
) -> int:
    """Unpack the archive in the file `source_fd` into the existing directory `destination` of the tree at `root_fd`.

    Returns the number of entries. Parents that are links, of the image or the archive, are followed inside the root; names
    can't leave the destination: with `clamps` a `..` stops there, as in BuildKit's ADD. Directories that are there take mode
    and owner from their entries, the destination itself nothing. `uid` and `gid`, both or neither, replace the archive's.
    Raises InputError, LimitExceeded, IsolationError.
    """
    limits = limits or ArchiveLimits()
    owner = None if uid is None or gid is None else (uid, gid)
    try:
        directory_fd = open_in_root(root_fd, destination or b".", OPEN_DIRECTORY & ~os.O_NOFOLLOW)
    except OSError as error:
        raise InputError(f"{shown(destination)} is no directory to unpack into: {error.strerror}") from error
    os.close(directory_fd)
    reader = TarReader(compress.decompressor(_Descriptor(source_fd), limit_bytes=limits.total_bytes), limits, nameless=True)
    prefix = b"/".join(part for part in destination.split(b"/") if part not in (b"", b"."))
    unpacker = Unpacker(
        root_fd, reader, hiding=IgnoringHiding(), limits=limits, error=InputError, prefix=prefix, owner=owner, clamps=clamps
    )
    try:
        unpacker.run()
    finally:
        unpacker.close()
    return unpacker.entries
