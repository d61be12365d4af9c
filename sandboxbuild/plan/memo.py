"""Which file had which digest when it was last read, so that an unchanged context isn't read again to compute a key.

A file is known by device, inode, size and both times. Timestamps are coarse, so one that changed just before it was read
isn't remembered: a second change within the same tick would go unseen (git's "racy" index entries).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

from sandboxbuild.fstree.entry import Entry

SETTLED_NS: Final = 2_000_000_000  # FAT keeps 2 s, the coarsest that a context lies on
MAX_RECORDS: Final = 2_000_000
_MAGIC: Final = b"sandboxbuild hashes 1\n"
_RECORD: Final = struct.Struct(">QQQqq32s")
_CHECK_BYTES: Final = 32


class FileIdentity(NamedTuple):
    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int


def identity_of(entry: Entry, now_ns: int) -> FileIdentity | None:
    """What an entry is remembered by; None where its times or inode don't tell it apart."""
    if entry.inode == (0, 0) or not entry.is_file or not entry.ctime_ns:
        return None
    if max(entry.mtime_ns, entry.ctime_ns) + SETTLED_NS > now_ns:
        return None
    return FileIdentity(*entry.inode, entry.size_bytes, entry.mtime_ns, entry.ctime_ns)


def encode_memo(digests: Mapping[FileIdentity, str]) -> bytes:
    """The file's bytes: fixed-size records, then their checksum. Digests are "sha256:<hex>"; what doesn't fit is left out."""
    records = []
    for identity, digest in digests.items():
        try:
            records.append(_RECORD.pack(*identity, bytes.fromhex(digest.removeprefix("sha256:"))))
        except (struct.error, ValueError):
            continue
    body = _MAGIC + b"".join(records[-MAX_RECORDS:])
    return body + hashlib.sha256(body).digest()


def decode_memo(data: bytes) -> dict[FileIdentity, str]:
    """The reverse. Anything damaged, foreign or too large is an empty memo: forgetting costs time, not truth."""
    body, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
    records = body[len(_MAGIC) :]
    if not body.startswith(_MAGIC) or len(records) % _RECORD.size or len(records) > MAX_RECORDS * _RECORD.size:
        return {}
    if hashlib.sha256(body).digest() != check:
        return {}
    return {FileIdentity(*fields): f"sha256:{digest.hex()}" for *fields, digest in _RECORD.iter_unpack(records)}
