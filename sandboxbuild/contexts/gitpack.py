"""Packs (gitformat-pack): every object of one is found, inflated, resolved and named by its SHA-1 before anything is used.

The pack lies in a file and is mapped; of contents only a bounded cache is kept in memory. Work is bounded as well as memory:
a chain of deltas can ask for far more bytes than either.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import zlib
from collections import OrderedDict
from collections.abc import Generator, Iterator
from typing import Final, NamedTuple

from sandboxbuild.contexts.gitdelta import apply_delta
from sandboxbuild.contexts.gitobjects import BLOB, COMMIT, KIND_NAMES, TAG, TREE, object_id
from sandboxbuild.errors import ContextError, LimitExceeded
from sandboxbuild.system.files import write_all

OFFSET_DELTA: Final = 6
REFERENCE_DELTA: Final = 7
_STORED: Final = frozenset({COMMIT, TREE, BLOB, TAG})
_TRAILER_BYTES: Final = 20
_HEADER_BYTES: Final = 12
_STEP_BYTES: Final = 256 * 1024
_LOOK_BYTES: Final = 1024  # what following one link of a chain counts as, in bytes of work


class PackLimits(NamedTuple):
    """`work_bytes` counts all that is inflated or put together; `depth` the longest chain of deltas (git's own is 4095).

    `object_bytes` is for what has to be in memory as a whole: deltas, and objects that aren't files. git makes no deltas of
    files above 512 MiB (core.bigFileThreshold), so those are read in pieces, whatever their size.
    """

    pack_bytes: int = 8 << 30
    objects: int = 2_000_000
    object_bytes: int = 512 << 20
    work_bytes: int = 32 << 30
    cache_bytes: int = 96 << 20
    depth: int = 4095


class _Raw(NamedTuple):
    """An object as the pack has it. `base` is an offset, or a SHA-1, for deltas; `end` where the next one begins."""

    kind: int
    size: int
    data_at: int
    end: int
    base: int | bytes | None


class Packed(NamedTuple):
    """Where an object begins and ends in the pack, by its SHA-1: what an index of the pack tells."""

    object_id: bytes
    offset: int
    end: int


class PackFile:
    """Writes a pack as it comes; `finish` checks that it is whole."""

    def __init__(self, descriptor: int, limits: PackLimits) -> None:
        self._descriptor = descriptor
        self._limit_bytes = limits.pack_bytes
        self._hashing = hashlib.sha1(usedforsecurity=False)
        self._tail = b""
        self.size_bytes = 0

    def write(self, chunk: bytes) -> None:
        self.size_bytes += len(chunk)
        if self.size_bytes > self._limit_bytes:
            raise LimitExceeded(f"the repository's pack has more than {self._limit_bytes} bytes")
        write_all(self._descriptor, chunk)
        self._tail += chunk
        if len(self._tail) > _TRAILER_BYTES:
            self._hashing.update(self._tail[:-_TRAILER_BYTES])
            self._tail = self._tail[-_TRAILER_BYTES:]

    def finish(self) -> None:
        """Raises ContextError for a pack whose checksum isn't its own."""
        if self.size_bytes < _HEADER_BYTES + _TRAILER_BYTES or self._tail != self._hashing.digest():
            raise ContextError("the repository's pack is damaged: its checksum differs")


class Pack:
    """The objects of a pack, by SHA-1. A context manager; not thread-safe."""

    def __init__(self, descriptor: int, limits: PackLimits = PackLimits()) -> None:  # noqa: B008 - a frozen value
        """Read the pack in the file `descriptor` (borrowed). Raises ContextError, LimitExceeded."""
        size = os.fstat(descriptor).st_size
        if size < _HEADER_BYTES + _TRAILER_BYTES:
            raise ContextError("the repository's pack is too short")
        self._limits = limits
        self._work = 0
        self._raw: dict[int, _Raw] = {}
        self._offsets: dict[bytes, int] = {}
        self._cache: OrderedDict[int, tuple[int, bytes]] = OrderedDict()
        self._cached_bytes = 0
        self._map = mmap.mmap(descriptor, size, prot=mmap.PROT_READ)
        try:
            self._scan(size - _TRAILER_BYTES)
            self._resolve()
        except BaseException:
            self._map.close()
            raise

    def __enter__(self) -> Pack:
        return self

    def __exit__(self, *_: object) -> None:
        self._map.close()

    def __contains__(self, wanted: bytes) -> bool:
        return wanted in self._offsets

    def read(self, wanted: bytes, kind: int) -> bytes:
        """The content of an object that is in the pack and of that kind. Raises ContextError for any other."""
        found = self.find(wanted)
        if found is None or found[0] != kind:
            raise ContextError(f"the git server left out the {KIND_NAMES[kind].decode()} {wanted.hex()}")
        return found[1]

    def pieces(self, wanted: bytes) -> Iterator[bytes]:
        """A file's content; one that is stored whole is never in memory as a whole. Raises as read() does."""
        raw = self._raw.get(self._offsets.get(wanted, -1))
        if raw is None or raw.base is not None or raw.kind != BLOB:
            yield self.read(wanted, BLOB)
            return
        yield from self._inflated_pieces(raw.data_at, raw.end)

    def find(self, wanted: bytes) -> tuple[int, bytes] | None:
        """Kind and content of an object, or None."""
        offset = self._offsets.get(wanted)
        return None if offset is None else self._content(offset)

    def listing(self) -> tuple[Packed, ...]:
        """All objects, by SHA-1."""
        return tuple(Packed(name, offset, self._raw[offset].end) for name, offset in sorted(self._offsets.items()))

    @property
    def checksum(self) -> bytes:
        """The pack's own SHA-1, 20 bytes."""
        return self._map[-_TRAILER_BYTES:]

    def slice(self, start: int, end: int) -> bytes:
        """Bytes of the pack as they are."""
        return self._map[start:end]

    def _scan(self, end: int) -> None:
        """Where each object begins, what it is, and that it inflates to the size it says."""
        if self._map[:8] != b"PACK\0\0\0\2":
            raise ContextError("the git server sends a pack of another version")
        count = int.from_bytes(self._map[8:12], "big")
        if count > self._limits.objects:
            raise LimitExceeded(f"the repository has more than {self._limits.objects} objects")
        at = _HEADER_BYTES
        for _ in range(count):
            raw = self._read_raw(at, end)
            self._raw[at] = raw
            at = raw.end
        if at != end:
            raise ContextError("the repository's pack has more than its objects")

    def _read_raw(self, at: int, end: int) -> _Raw:
        start = at
        kind, size, at = _object_head(self._map[at : min(at + 16, end)], at)
        if size > self._limits.object_bytes and kind != BLOB:
            raise LimitExceeded(f"the repository has an object of more than {self._limits.object_bytes} bytes")
        base: int | bytes | None = None
        if kind == OFFSET_DELTA:
            distance, at = _base_distance(self._map[at : min(at + 16, end)], at)
            base = start - distance
            if base not in self._raw:
                raise ContextError("the repository's pack has a delta without its base")
        elif kind == REFERENCE_DELTA:
            base = self._map[at : at + 20]
            at += 20
        elif kind not in _STORED:
            raise ContextError("the repository's pack has an object of an unknown kind")
        hashing = hashlib.sha1(usedforsecurity=False)
        if kind in _STORED:
            hashing.update(b"%b %d\0" % (KIND_NAMES[kind], size))
        after = self._inflate_through(at, end, size, hashing)
        if kind in _STORED:
            self._offsets[hashing.digest()] = start
        return _Raw(kind, size, at, after, base)

    def _inflate_through(self, at: int, end: int, size: int, hashing: hashlib._Hash) -> int:
        """Inflate without keeping anything; gives the place behind. It must be exactly `size` bytes."""
        made = 0
        pieces = self._inflated_pieces(at, end)
        while True:
            try:
                piece = next(pieces)
            except StopIteration as ended:
                after: int = ended.value
                break
            made += len(piece)
            if made > size:
                raise ContextError("the repository's pack has an object larger than it says")
            hashing.update(piece)
        if made != size:
            raise ContextError("the repository's pack has an object smaller than it says")
        return after

    def _inflated_pieces(self, at: int, end: int) -> Generator[bytes, None, int]:
        """The stream that begins at `at`, in pieces; returns the place behind it, at most `end`.

        At the stream's end zlib leaves what follows it in `unconsumed_tail`, too: to go on feeding that would never end.
        """
        inflating = zlib.decompressobj()
        while not inflating.eof:
            fed = self._map[at : min(at + _STEP_BYTES, end)]
            if not fed:
                raise ContextError("the repository's pack ends in the middle of an object")
            at += len(fed)
            more = True
            while more:
                piece = _inflated(inflating, fed, _STEP_BYTES)
                self._spend(len(piece) + 16)
                if piece:
                    yield piece
                fed = inflating.unconsumed_tail
                more = not inflating.eof and (bool(fed) or len(piece) == _STEP_BYTES)
        return at - len(inflating.unused_data)

    def _resolve(self) -> None:
        """Name the deltas. One by reference may name another that has no name yet, so until nothing more comes of it."""
        waiting = [offset for offset, raw in self._raw.items() if raw.base is not None]
        while waiting:
            left: list[int] = []
            for offset in waiting:
                if self._has_bases(offset):
                    self._offsets.setdefault(object_id(*self._content(offset)), offset)
                else:
                    left.append(offset)
            if len(left) == len(waiting):
                raise ContextError("the repository's pack has a delta without its base")
            waiting = left

    def _has_bases(self, offset: int) -> bool:
        """Whether the chain below an object ends at one that is stored whole, as far as names are known."""
        for _ in range(self._limits.depth + 1):
            self._spend(_LOOK_BYTES)
            base = self._raw[offset].base
            if base is None or offset in self._cache:
                return True
            below = self._offsets.get(base) if isinstance(base, bytes) else base
            if below is None:
                return False
            offset = below
        raise LimitExceeded(f"the repository's pack has a chain of more than {self._limits.depth} deltas")

    def _content(self, offset: int) -> tuple[int, bytes]:
        """Kind and content: down the chain of bases to what is known, and up again."""
        chain: list[int] = []
        while offset not in self._cache:
            raw = self._raw[offset]
            if raw.base is None:
                break
            chain.append(offset)
            self._spend(_LOOK_BYTES)
            if len(chain) > self._limits.depth:
                raise LimitExceeded(f"the repository's pack has a chain of more than {self._limits.depth} deltas")
            offset = self._offsets[raw.base] if isinstance(raw.base, bytes) else raw.base
        kind, content = self._known(offset)
        for delta in reversed(chain):
            content = apply_delta(content, self._inflate(self._raw[delta]), self._limits.object_bytes)
            self._spend(len(content))
            self._remember(delta, kind, content)
        return kind, content

    def _known(self, offset: int) -> tuple[int, bytes]:
        if offset in self._cache:
            self._cache.move_to_end(offset)
            return self._cache[offset]
        raw = self._raw[offset]
        content = self._inflate(raw)
        self._remember(offset, raw.kind, content)
        return raw.kind, content

    def _inflate(self, raw: _Raw) -> bytes:
        self._spend(raw.size)
        if raw.size > self._limits.object_bytes:
            raise LimitExceeded(f"the repository has a delta of an object of more than {self._limits.object_bytes} bytes")
        content = _inflated(zlib.decompressobj(), self._map[raw.data_at : raw.end], raw.size + 1)
        if len(content) != raw.size:
            raise ContextError("the repository's pack changed while it was read")
        return content

    def _remember(self, offset: int, kind: int, content: bytes) -> None:
        if len(content) > self._limits.cache_bytes // 4:
            return
        previous = self._cache.pop(offset, None)
        self._cached_bytes += len(content) - (len(previous[1]) if previous else 0)
        self._cache[offset] = kind, content
        while self._cached_bytes > self._limits.cache_bytes:
            _, (_, dropped) = self._cache.popitem(last=False)
            self._cached_bytes -= len(dropped)

    def _spend(self, count: int) -> None:
        self._work += count
        if self._work > self._limits.work_bytes:
            raise LimitExceeded(f"the repository's pack unfolds to more than {self._limits.work_bytes} bytes")


def _inflated(inflating: zlib._Decompress, data: bytes, limit: int) -> bytes:
    try:
        return inflating.decompress(data, limit)
    except zlib.error as error:
        raise ContextError("the repository's pack has an object that doesn't inflate") from error


def _object_head(data: bytes, at: int) -> tuple[int, int, int]:
    """Kind, size and the place behind an object's first bytes."""
    if not data:
        raise ContextError("the repository's pack ends too soon")
    kind, size, shift = data[0] >> 4 & 7, data[0] & 15, 4
    for position in range(len(data)):
        if position:
            size |= (data[position] & 0x7F) << shift
            shift += 7
        if not data[position] & 0x80:
            return kind, size, at + position + 1
        if shift > 60:
            break
    raise ContextError("the repository's pack has a malformed size")


def _base_distance(data: bytes, at: int) -> tuple[int, int]:
    """How far back an offset delta's base lies, and the place behind: groups of seven bits, each but the last plus one."""
    distance = 0
    for position, byte in enumerate(data[:9]):
        distance = (distance + 1 << 7 if position else 0) | byte & 0x7F
        if not byte & 0x80:
            return distance, at + position + 1
    raise ContextError("the repository's pack has a malformed delta")
