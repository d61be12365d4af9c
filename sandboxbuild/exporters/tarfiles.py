"""A tar of files that we make ourselves: same files, same bytes. Owner 0, no times, content streamed and not held."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import Final

from sandboxbuild.archive import member as kinds
from sandboxbuild.archive.member import BLOCK
from sandboxbuild.archive.writer import encode_header
from sandboxbuild.exporters.destination import Write
from sandboxbuild.fstree.entry import Entry

_TYPES: Final = {
    kinds.FILE: stat.S_IFREG,
    kinds.HARD_LINK: stat.S_IFREG,
    kinds.SYMLINK: stat.S_IFLNK,
    kinds.CHARACTER_DEVICE: stat.S_IFCHR,
    kinds.BLOCK_DEVICE: stat.S_IFBLK,
    kinds.DIRECTORY: stat.S_IFDIR,
    kinds.FIFO: stat.S_IFIFO,
}


class TarFile:
    """Writes members in the order given to `write`."""

    __slots__ = ("_write",)

    def __init__(self, write: Write) -> None:
        self._write = write

    def directory(self, path: str) -> None:
        self._header(os.fsencode(path) + b"/", Entry(os.fsencode(path), stat.S_IFDIR | 0o755), kinds.DIRECTORY, 0)

    def file(self, path: str, content: bytes) -> None:
        self.stream(path, len(content), (content,))

    def stream(self, path: str, size_bytes: int, chunks: Iterable[bytes]) -> None:
        """`chunks` must come to `size_bytes`."""
        self._header(os.fsencode(path), Entry(os.fsencode(path), stat.S_IFREG | 0o644), kinds.FILE, size_bytes)
        for chunk in chunks:
            self._write(chunk)
        self._write(bytes(-size_bytes % BLOCK))

    def member(self, found: kinds.TarMember, chunks: Iterable[bytes | memoryview] = ()) -> None:
        """Pass a member of another archive on; `chunks` come to its `size_bytes`, holes written out."""
        entry = Entry(
            found.path,
            _TYPES[found.kind] | found.mode,
            found.uid,
            found.gid,
            rdev=found.rdev,
            xattrs=tuple(xattr for xattr in found.xattrs if not xattr[0].startswith(_OVERLAY)),
        )
        path = found.path + b"/" if found.kind == kinds.DIRECTORY else found.path
        self._header(path, entry, found.kind, found.size_bytes, found.mtime_ns // 10**9, found.link_target)
        for chunk in chunks:
            self._write(chunk)
        self._write(bytes(-found.size_bytes % BLOCK))

    def finish(self) -> None:
        self._write(bytes(2 * BLOCK))

    def _header(self, path: bytes, entry: Entry, kind: bytes, size: int, mtime_s: int = 0, link: bytes = b"") -> None:
        header, extras = encode_header(path, entry, kind, size, mtime_s, link)
        if extras:
            name = b"PaxHeaders.0/" + entry.path.rpartition(b"/")[2][:80]
            self._write(encode_header(name, Entry(b"", stat.S_IFREG | 0o644), b"x", len(extras), 0, b"")[0])
            self._write(extras)
            self._write(bytes(-len(extras) % BLOCK))
        self._write(header)


_OVERLAY: Final = ("user.overlay.", "trusted.overlay.", "user.sandboxbuild.")
