"""A `.git` for a checkout that keeps one: HEAD, the pack with its index, refs, and the index of the files. No hooks, no remote.

Source: gitrepository-layout, gitformat-pack (index version 2), gitformat-index (version 2).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import zlib
from collections.abc import Sequence
from typing import Final, NamedTuple

from sandboxbuild.contexts.gitcheckout import Written
from sandboxbuild.contexts.gitpack import Pack, Packed

_CONFIG: Final = b"[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n"
_FOLDERS: Final = ("", "objects", "objects/pack", "objects/info", "refs", "refs/heads", "refs/tags", "info")
_LARGE: Final = 1 << 31
_REGULAR: Final = 0o100000


class Head(NamedTuple):
    """What the checkout is of. `branch` is a full ref's name where a branch was asked for, `tag` (name, id) likewise."""

    commit: bytes
    branch: bytes = b""
    tag: tuple[bytes, bytes] | None = None
    shallow: tuple[bytes, ...] = ()


def write_git_folder(folder: str, head: Head, pack: Pack, pack_path: str, written: Sequence[Written]) -> None:
    """Make `folder` (a new `.git`) of a fetched pack and the files that were checked out. Ids are 40 hex digits."""
    for name in _FOLDERS:
        os.mkdir(os.path.join(folder, name), 0o755)
    _put(folder, "config", _CONFIG)
    branch = head.branch if head.branch.startswith(b"refs/heads/") else b""
    _put(folder, "HEAD", b"ref: %b\n" % branch if branch else head.commit + b"\n")
    refs = [(branch, head.commit)] if branch else []
    refs += [head.tag] if head.tag else []
    _put(folder, "packed-refs", b"".join(b"%b %b\n" % (object_id, name) for name, object_id in sorted(refs)))
    if head.shallow:
        _put(folder, "shallow", b"".join(commit + b"\n" for commit in sorted(head.shallow)))
    listing = pack.listing()
    checksum = pack.checksum
    name = f"objects/pack/pack-{checksum.hex()}"
    shutil.copyfile(pack_path, os.path.join(folder, f"{name}.pack"))
    _put(folder, f"{name}.idx", pack_index(listing, [zlib.crc32(pack.slice(one.offset, one.end)) for one in listing], checksum))
    _put(folder, "index", file_index(written))


def pack_index(listing: Sequence[Packed], checksums: Sequence[int], pack_checksum: bytes) -> bytes:
    """Index version 2 of a pack whose objects are `listing`, sorted by id."""
    counts = [0] * 256
    for one in listing:
        counts[one.object_id[0]] += 1
    totals = [sum(counts[: number + 1]) for number in range(256)]
    large = [one.offset for one in listing if one.offset >= _LARGE]
    places = {offset: _LARGE | number for number, offset in enumerate(large)}
    body = b"".join(
        (
            b"\xfftOc\0\0\0\2",
            struct.pack("!256I", *totals),
            b"".join(one.object_id for one in listing),
            struct.pack(f"!{len(listing)}I", *checksums),
            struct.pack(f"!{len(listing)}I", *(places.get(one.offset, one.offset) for one in listing)),
            struct.pack(f"!{len(large)}Q", *large),
            pack_checksum,
        )
    )
    return body + hashlib.sha1(body, usedforsecurity=False).digest()


def file_index(written: Sequence[Written]) -> bytes:
    """The index of the checked out files, without what stat said of them: git looks again when it needs to know."""
    entries = [_index_entry(one) for one in sorted(written, key=lambda one: one.path)]
    body = struct.pack("!4sII", b"DIRC", 2, len(entries)) + b"".join(entries)
    return body + hashlib.sha1(body, usedforsecurity=False).digest()


def _index_entry(one: Written) -> bytes:
    numbers = struct.pack("!10I", 0, 0, 0, 0, 0, 0, one.entry.mode, 0, 0, one.size_bytes & 0xFFFFFFFF)
    entry = numbers + one.entry.object_id + struct.pack("!H", min(len(one.path), 0xFFF)) + one.path
    return entry + bytes(8 - len(entry) % 8)


def _put(folder: str, name: str, content: bytes) -> None:
    with open(os.path.join(folder, name), "xb") as stream:
        stream.write(content)
