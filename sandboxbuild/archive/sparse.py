"""Sparse files: the four ways in which archives say where a file's bytes are (GNU tar manual, "Storing Sparse Files")."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from sandboxbuild.archive.header import Malformed, decimal, number
from sandboxbuild.archive.member import Segment
from sandboxbuild.errors import LimitExceeded

_OLD_AT: Final = 386
_OLD_ENTRIES: Final = 4
_OLD_MORE_AT: Final = 482
_OLD_SIZE_AT: Final = 483
_EXTENSION_ENTRIES: Final = 21
_EXTENSION_MORE_AT: Final = 504


def read_old(block: bytes, following: Callable[[], bytes], limit: int) -> tuple[int, list[Segment]]:
    """The map in a header of type S and in the blocks that follow it: the file's size, and its segments."""
    segments = _entries(block, _OLD_AT, _OLD_ENTRIES)
    more = block[_OLD_MORE_AT]
    while more:
        extension = following()
        segments += _entries(extension, 0, _EXTENSION_ENTRIES)
        more = extension[_EXTENSION_MORE_AT]
        _bound(len(segments), limit)
    return number(block[_OLD_SIZE_AT : _OLD_SIZE_AT + 12]), segments


def _entries(block: bytes, at: int, count: int) -> list[Segment]:
    found = []
    for start in range(at, at + count * 24, 24):
        offset, length = block[start : start + 12], block[start + 12 : start + 24]
        if not offset.strip(b"\0 ") and not length.strip(b"\0 "):
            break
        found.append(Segment(number(offset), number(length)))
    return found


def read_numbers(numbers: Iterable[bytes], limit: int) -> list[Segment]:
    """The maps of GNU.sparse.0.0 and 0.1: offsets and lengths in turn."""
    values = [decimal(text) for text in numbers]
    _bound(len(values) // 2, limit)
    if len(values) % 2:
        raise Malformed("a sparse map ends in the middle")
    return [Segment(*pair) for pair in zip(values[::2], values[1::2], strict=True)]


def read_leading(following: Callable[[], bytes], limit: int) -> list[Segment]:
    """The map of GNU.sparse.1.0, in blocks ahead of the content."""
    first, newline, rest = following().partition(b"\n")
    if not newline:
        raise Malformed("a sparse map is no list of numbers")
    wanted = 2 * decimal(first)
    _bound(wanted // 2, limit)
    parts, lines = [rest], rest.count(b"\n")
    while lines < wanted:
        block = following()
        found = block.count(b"\n")
        if not found:  # a number is shorter than a block
            raise Malformed("a sparse map is no list of numbers")
        parts.append(block)
        lines += found
    return read_numbers(b"".join(parts).split(b"\n", wanted)[:wanted], limit)


def check_segments(segments: Iterable[Segment], size_bytes: int, stored_bytes: int) -> tuple[Segment, ...]:
    """The segments that hold something; in order, apart, inside the file and as long together as what is stored."""
    kept = tuple(segment for segment in segments if segment.length)  # an empty one marks the end, or nothing
    end = total = 0
    for segment in kept:
        if segment.offset < end or segment.offset + segment.length > size_bytes:
            raise Malformed("a sparse map overlaps or goes past the end")
        end = segment.offset + segment.length
        total += segment.length
    if total != stored_bytes:
        raise Malformed("a sparse map doesn't fit what is stored")
    return kept


def _bound(count: int, limit: int) -> None:
    if count > limit:
        raise LimitExceeded(f"a sparse file has more than {limit} segments")
