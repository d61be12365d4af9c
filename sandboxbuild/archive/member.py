"""TarMember: what one entry of an archive says, whatever dialect said it; and the limits of what we take from an archive."""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

FILE: Final = b"0"
HARD_LINK: Final = b"1"
SYMLINK: Final = b"2"
CHARACTER_DEVICE: Final = b"3"
BLOCK_DEVICE: Final = b"4"
DIRECTORY: Final = b"5"
FIFO: Final = b"6"
KINDS: Final = frozenset({FILE, HARD_LINK, SYMLINK, CHARACTER_DEVICE, BLOCK_DEVICE, DIRECTORY, FIFO})

BLOCK: Final = 512
CHUNK: Final = 1 << 20


class Segment(NamedTuple):
    """A stretch of a sparse file that holds bytes; everything between segments is a hole."""

    offset: int
    length: int


class TarMember(NamedTuple):
    """One entry. `path` and `link_target` are the archive's bytes, unchecked, without trailing slashes on `path`.

    `kind` is one of KINDS; `mode` has permission bits alone. `size_bytes` is that of the file as it will be on disk,
    `stored_bytes` of what the archive holds for it (less, if it is sparse). `segments` is None for a dense file.
    """

    path: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    size_bytes: int
    stored_bytes: int
    mtime_ns: int
    link_target: bytes = b""
    rdev: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[str, bytes], ...] = ()
    segments: tuple[Segment, ...] | None = None


class ArchiveLimits(NamedTuple):
    """What an archive may ask of us. Passing any is LimitExceeded.

    `entries` counts headers of all kinds; `total_bytes` both the uncompressed stream and the sum of file sizes, holes
    included; `header_bytes` one extended header; `name_bytes` all paths together; `depth` components of a path.
    """

    entries: int = 2_000_000
    total_bytes: int = 128 << 30
    header_bytes: int = 1 << 20
    path_bytes: int = 4095
    name_bytes: int = 1 << 29
    depth: int = 512
    segments: int = 200_000


class Readable(Protocol):
    """Something to read from. `read(n)` gives 1 to n bytes, b"" at the end; it ends by itself if the other side stalls."""

    def read(self, n: int, /) -> bytes: ...
