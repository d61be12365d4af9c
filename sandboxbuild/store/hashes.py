"""The memory of file contents: a file whose device, inode, size, mtime and ctime are as when it was read is unchanged.

One compact file, so that 2,000 unchanged files cost a read of 144 kB instead of one of all their bytes. ctime can't be set by
a program, so a file that was changed is one that isn't known.
"""

from __future__ import annotations

import struct
import threading
import time
import zlib
from typing import Final

from sandboxbuild.errors import SandboxbuildError
from sandboxbuild.fstree.entry import Entry
from sandboxbuild.oci.digest import encoded_of, parse_digest
from sandboxbuild.store.layout import read_small
from sandboxbuild.store.leases import using
from sandboxbuild.store.scratch import Scratch

FOLDER: Final = "cache"
FILE: Final = "hashes"
_MAGIC: Final = b"sbhash01"
_HEADER: Final = struct.Struct("<8sI")
_KEY: Final = struct.Struct("<QQQqq")
_RECORD_BYTES: Final = _KEY.size + 32
_MAX_RECORDS: Final = 300_000
_MAX_BYTES: Final = _HEADER.size + _MAX_RECORDS * _RECORD_BYTES
# Two changes within one tick of a filesystem's clock have one timestamp: ticks of Linux are 10 ms at most, those of
# filesystems that keep whole seconds are 2 s at most (FAT).
_TICK_NS: Final = 20_000_000
_COARSE_TICK_NS: Final = 2_000_000_000


class FileHashes:
    """Digests of regular files. Read on the first look-up, written by save(). Thread-safe."""

    __slots__ = ("_asked_ns", "_changed", "_known", "_lock", "_scratch")

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self._known: dict[bytes, bytes] | None = None
        self._asked_ns: dict[bytes, int] = {}
        self._changed = False
        self._lock = threading.Lock()

    def lookup(self, entry: Entry) -> str | None:
        """The sha256 digest of the content of `entry` (as lstat tells of it right now), or None.

        After None, read the file, then remember().
        """
        key = _key(entry)
        if key is None:
            return None
        known = self._loaded()
        digest = known.get(key)
        if digest is None:
            self._asked_ns[key] = time.time_ns()
            return None
        return "sha256:" + digest.hex()

    def remember(self, entry: Entry, digest: str) -> None:
        """Keep the digest of what was read after lookup() gave None for the same entry.

        Nothing is kept of a file that changed so shortly before it was read that a change after could have the same times.
        """
        key = _key(entry)
        asked_ns = self._asked_ns.pop(key, None) if key is not None else None
        if key is None or asked_ns is None or not parse_digest(digest).startswith("sha256:"):
            return
        if _last_change_ns(entry) + _tick_ns(entry) >= asked_ns:
            return
        with self._lock:
            if self._known is not None:
                self._known.pop(key, None)
                self._known[key] = bytes.fromhex(encoded_of(digest))
                self._changed = True

    def save(self) -> None:
        """Write what was learned, with what other builds have written meanwhile; the oldest beyond the limit is forgotten.

        A full disk or a store that may only be read is no error: the memory is a convenience.
        """
        with self._lock:
            if not self._changed or self._known is None:
                return
            self._changed = False
            merged = self._read() | self._known
            records = list(merged.items())[-_MAX_RECORDS:]
            body = b"".join(key + digest for key, digest in records)
            try:
                with using(self._scratch.root):
                    self._scratch.write_small(FOLDER, FILE, _HEADER.pack(_MAGIC, zlib.crc32(body)) + body)
            except (OSError, SandboxbuildError):
                pass

    def _loaded(self) -> dict[bytes, bytes]:
        if self._known is None:
            with self._lock:
                if self._known is None:
                    self._known = self._read()
        return self._known

    def _read(self) -> dict[bytes, bytes]:
        """Empty if the file is absent, of another version or torn."""
        try:
            data = read_small(self._scratch.root.folder(FOLDER), FILE, _MAX_BYTES)
        except OSError:
            return {}
        body = data[_HEADER.size :]
        if len(data) < _HEADER.size or len(body) % _RECORD_BYTES:
            return {}
        if _HEADER.unpack_from(data) != (_MAGIC, zlib.crc32(body)):
            return {}
        split = _KEY.size
        return {body[at : at + split]: body[at + split : at + _RECORD_BYTES] for at in range(0, len(body), _RECORD_BYTES)}


def _key(entry: Entry) -> bytes | None:
    if not entry.is_file or entry.inode == (0, 0) or not entry.ctime_ns:
        return None
    try:
        return _KEY.pack(*entry.inode, entry.size_bytes, entry.mtime_ns, entry.ctime_ns)
    except struct.error:
        return None


def _last_change_ns(entry: Entry) -> int:
    return max(entry.ctime_ns, entry.mtime_ns)


def _tick_ns(entry: Entry) -> int:
    coarse = entry.ctime_ns % 1_000_000_000 == 0 and entry.mtime_ns % 1_000_000_000 == 0
    return _COARSE_TICK_NS if coarse else _TICK_NS
