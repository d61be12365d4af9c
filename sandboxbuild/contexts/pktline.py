"""pkt-lines, the framing of git's protocol (gitprotocol-common): four hex digits of length, then the bytes."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Final, Protocol

from sandboxbuild.errors import ContextError

LINE_LIMIT_BYTES: Final = 65520
_HEX: Final = frozenset(b"0123456789abcdefABCDEF")


class Mark(StrEnum):
    """The packets without content."""

    FLUSH = "flush"
    DELIMITER = "delimiter"
    RESPONSE_END = "response-end"


Packet = bytes | Mark
_MARKS: Final = {0: Mark.FLUSH, 1: Mark.DELIMITER, 2: Mark.RESPONSE_END}


class Readable(Protocol):
    def read(self, count: int, /) -> bytes: ...


def encode(*packets: Packet) -> bytes:
    """The packets on the wire."""
    codes = {mark: b"%04x" % code for code, mark in _MARKS.items()}
    return b"".join(codes[packet] if isinstance(packet, Mark) else b"%04x" % (len(packet) + 4) + packet for packet in packets)


def read_packets(source: Readable) -> Iterator[Packet]:
    """All packets of a stream up to its end. Raises ContextError for what is none, and for an end in the middle."""
    buffer = _Buffer(source)
    while (head := buffer.take(4, at_end=True)) != b"":
        if len(head) < 4 or not _HEX.issuperset(head):
            raise ContextError("the git server sends what isn't git's protocol")
        length = int(head, 16)
        if length in _MARKS:
            yield _MARKS[length]
        elif 4 <= length <= LINE_LIMIT_BYTES:
            yield buffer.take(length - 4)
        else:
            raise ContextError(f"the git server sends a packet of {length} bytes")


class _Buffer:
    """Exact reads from a source that gives what it has."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._rest = b""

    def take(self, count: int, *, at_end: bool = False) -> bytes:
        """Exactly `count` bytes; with `at_end`, fewer are allowed at the end of the stream."""
        parts = [self._rest]
        size = len(self._rest)
        while size < count and (chunk := self._source.read(65536)):
            parts.append(chunk)
            size += len(chunk)
        whole = b"".join(parts)
        self._rest = whole[count:]
        if len(whole) < count and not at_end:
            raise ContextError("the git server's answer ends too soon")
        return whole[:count]
