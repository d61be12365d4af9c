"""TarWriter: entries -> a tar stream whose bytes depend on the entries alone.

ustar where it fits and pax records for what doesn't: long names, big numbers, extended attributes. Ids are numbers without
names. Times are whole seconds, rounded down, as containerd and BuildKit write them: a fraction would cost a pax record for each
entry. Names go out as the bytes that they are, which all readers give back, whether or not they are UTF-8.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable
from typing import Final

from sandboxbuild.archive import member as kinds
from sandboxbuild.archive.directories import shown
from sandboxbuild.archive.header import checksum
from sandboxbuild.archive.member import BLOCK, CHUNK
from sandboxbuild.errors import InputError
from sandboxbuild.fstree import whiteout
from sandboxbuild.fstree.entry import Entry

Sink = Callable[[memoryview], object]

_HEADER: Final = struct.Struct("100s8s8s8s12s12s8sc100s6s2s32s32s8s8s155s12x")
_MAX_ID: Final = 0o7777777
_MAX_SIZE: Final = 0o77777777777
_KIND: Final = {
    stat.S_IFREG: kinds.FILE,
    stat.S_IFDIR: kinds.DIRECTORY,
    stat.S_IFLNK: kinds.SYMLINK,
    stat.S_IFCHR: kinds.CHARACTER_DEVICE,
    stat.S_IFBLK: kinds.BLOCK_DEVICE,
    stat.S_IFIFO: kinds.FIFO,
}


class TarWriter:
    """Writes entries in the order given to `sink`, in chunks of exactly 1 MiB and a last shorter one.

    Each chunk becomes the sink's. No modification time after `epoch_s` (SOURCE_DATE_EPOCH) gets in. Regular files that share an
    inode become hard links to the first of them. Not thread-safe. Raises InputError for what tar can't hold.
    """

    def __init__(self, sink: Sink, epoch_s: int | None = None) -> None:
        self._sink = sink
        self._epoch_s = epoch_s
        self._first_names: dict[tuple[int, int], bytes] = {}
        self._buffer = memoryview(bytearray(CHUNK))
        self._at = 0
        self.entries = 0
        self.size_bytes = 0

    def add(self, entry: Entry, open_content: Callable[[Entry], int] | None = None) -> None:
        """Write one entry. `open_content` gives a descriptor of a regular file, at its start, which is closed here.

        It isn't called for empty files and later names of an inode. Raises InputError if the file isn't as the entry says.
        """
        kind = _KIND.get(stat.S_IFMT(entry.mode))
        if kind is None:
            raise InputError(f"{shown(entry.path)} is of a type that a layer can't hold")
        if kind != kinds.FILE:
            self._put_header(entry, kind, 0, entry.link_target)
            return
        first = self._first_name(entry)
        if first is not None:
            self._put_header(entry, kinds.HARD_LINK, 0, first)
            return
        self._put_header(entry, kind, entry.size_bytes, b"")
        if entry.size_bytes:
            assert open_content is not None
            fd = open_content(entry)
            try:
                self._put_file(fd, entry)
            finally:
                os.close(fd)

    def add_bytes(self, entry: Entry, content: bytes) -> None:
        """Write a regular file whose content is at hand; the entry's size doesn't count."""
        self._put_header(entry, kinds.FILE, len(content), b"")
        self._put(content)
        self._pad(len(content))

    def add_whiteout(self, path: bytes) -> None:
        """Say that `path` is gone (image-spec layer.md, Whiteouts): an empty file without a time, for it has none."""
        self._put_header(Entry(whiteout.whiteout_path(path), stat.S_IFREG), kinds.FILE, 0, b"")

    def add_opaque(self, directory: bytes) -> None:
        """Say that what lower layers have in `directory` is gone; right after the directory itself."""
        self._put_header(Entry(whiteout.opaque_path(directory), stat.S_IFREG), kinds.FILE, 0, b"")

    def finish(self) -> None:
        """Write the end of the archive and what is still held. Once."""
        self._put(bytes(2 * BLOCK))
        self._flush()

    def _first_name(self, entry: Entry) -> bytes | None:
        """The name under which this entry's inode is in the archive, or None (and then this is it)."""
        if entry.link_count < 2 or entry.inode == (0, 0):
            return None
        first = self._first_names.setdefault(entry.inode, entry.path)
        return None if first == entry.path else first

    def _put_header(self, entry: Entry, kind: bytes, size: int, link_target: bytes) -> None:
        path = entry.path
        if kind == kinds.DIRECTORY:
            path = path + b"/" if path else b"./"
        mtime = entry.mtime_ns // 10**9
        if self._epoch_s is not None and mtime > self._epoch_s:
            mtime = self._epoch_s
        self.entries += 1
        header, extras = encode_header(path, entry, kind, size, mtime, link_target)
        if extras:
            name = b"PaxHeaders.0/" + entry.path.rpartition(b"/")[2][:80]
            extended, _ = encode_header(name, Entry(b"", 0o644), b"x", len(extras), 0, b"")
            self._put(extended)
            self._put(extras)
            self._pad(len(extras))
        self._put(header)

    def _put(self, data: bytes) -> None:
        at = self._at
        end = at + len(data)
        if end < CHUNK:
            self._buffer[at:end] = data
            self._at = end
            return
        rest = memoryview(data)
        while rest:
            part = rest[: CHUNK - self._at]
            self._buffer[self._at : self._at + len(part)] = part
            self._advance(len(part))
            rest = rest[len(part) :]

    def _advance(self, count: int) -> None:
        self._at += count
        if self._at == CHUNK:
            self._flush()

    def _flush(self) -> None:
        chunk = self._buffer[: self._at]
        self.size_bytes += self._at
        self._buffer = memoryview(bytearray(CHUNK))
        self._at = 0
        if chunk:
            self._sink(chunk)

    def _pad(self, size: int) -> None:
        padding = -size % BLOCK
        if padding:
            self._put(bytes(padding))

    def _put_file(self, fd: int, entry: Entry) -> None:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size != entry.size_bytes:
            raise _changed(entry)
        left = entry.size_bytes
        while left:
            # One byte more than is wanted tells a file that grew from one that didn't, without another call.
            room = self._buffer[self._at : min(CHUNK, self._at + left + 1)]
            count = os.readv(fd, [room])
            if not count or count > left:
                raise _changed(entry)
            left -= count
            self._advance(count)
        self._pad(entry.size_bytes)


def encode_header(path: bytes, entry: Entry, kind: bytes, size: int, mtime_s: int, link: bytes) -> tuple[bytes, bytes]:
    """The header block of an entry, and the pax records that have to stand before it (b"": none)."""
    records: list[tuple[bytes, bytes]] = []
    name, prefix = path, b""
    if len(path) > 100:
        name, prefix = _split(path)
        if not name:
            records.append((b"path", path))
            name = path[-100:].lstrip(b"/")
    if len(link) > 100:
        records.append((b"linkpath", link))
    uid = _bounded(b"uid", entry.uid, _MAX_ID, records)
    gid = _bounded(b"gid", entry.gid, _MAX_ID, records)
    size = _bounded(b"size", size, _MAX_SIZE, records)
    mtime_s = _bounded(b"mtime", mtime_s, _MAX_SIZE, records)
    if kind != kinds.HARD_LINK:
        for attribute, value in entry.xattrs:
            records.append((b"SCHILY.xattr." + os.fsencode(attribute), value))
    block = _HEADER.pack(
        name,
        b"%07o" % (entry.mode & 0o7777),
        b"%07o" % uid,
        b"%07o" % gid,
        b"%011o" % size,
        b"%011o" % mtime_s,
        b"        ",
        kind,
        link[:100],
        b"ustar",
        b"00",
        b"",
        b"",
        b"%07o" % entry.rdev[0],
        b"%07o" % entry.rdev[1],
        prefix,
    )
    block = b"%b%06o\0 %b" % (block[:148], checksum(block), block[156:])
    return block, b"".join(_record(key, value) for key, value in records) if records else b""


def _bounded(key: bytes, value: int, maximum: int, records: list[tuple[bytes, bytes]]) -> int:
    if 0 <= value <= maximum:
        return value
    records.append((key, b"%d" % value))
    return 0


def _split(path: bytes) -> tuple[bytes, bytes]:
    """`path` as ustar's name and prefix, or two empty strings if it has no slash in the right place."""
    slash = path.rfind(b"/", 0, 156)
    if slash < 1 or not 1 <= len(path) - slash - 1 <= 100:
        return b"", b""
    return path[slash + 1 :], path[:slash]


def _record(key: bytes, value: bytes) -> bytes:
    """One pax record: its length in decimal counts itself."""
    body = len(key) + len(value) + 3
    length = body + len(str(body))
    if len(str(length)) > len(str(body)):
        length += 1
    return b"%d %b=%b\n" % (length, key, value)


def _changed(entry: Entry) -> InputError:
    return InputError(
        f"{shown(entry.path)} changed while it was read",
        hint="a program that still writes, or a context that is being edited, gives no layer that means anything",
    )
