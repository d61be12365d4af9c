"""Frames: four bytes of length, big-endian, then that many bytes of JSON. Nothing else ever goes over the control channel.

A frame's length is checked before a byte of it is read, so a peer can make the reader hold one frame and no more.
"""

from __future__ import annotations

from typing import Final, Protocol

from sandboxbuild.errors import ProtocolError

EVENT_LIMIT_BYTES: Final = 1024 * 1024
REQUEST_LIMIT_BYTES: Final = 32 * 1024 * 1024  # a Dockerfile, an ignore file and a compiled filter, in base64
HEADER_BYTES: Final = 4


class Readable(Protocol):
    def read(self, size: int, /) -> bytes | None:
        """At most `size` bytes; b"" or None at the end."""


class Writable(Protocol):
    def write(self, data: bytes, /) -> object: ...

    def flush(self) -> object: ...


def write_frame(stream: Writable, payload: bytes, *, limit_bytes: int = EVENT_LIMIT_BYTES) -> None:
    """Send one frame and flush it. Raises ProtocolError, before writing any of it, for what a reader refuses."""
    if len(payload) > limit_bytes:
        raise ProtocolError(f"a message of {len(payload)} bytes is over the limit of {limit_bytes} bytes")
    stream.write(len(payload).to_bytes(HEADER_BYTES, "big") + payload)
    stream.flush()


def read_frame(stream: Readable, *, limit_bytes: int = EVENT_LIMIT_BYTES) -> bytes | None:
    """The next frame's payload, or None where the stream ends between frames.

    Raises ProtocolError for a length over the limit and for a stream that ends inside a frame.
    """
    header = _read_exactly(stream, HEADER_BYTES)
    if not header:
        return None
    if len(header) < HEADER_BYTES:
        raise ProtocolError("the control channel ended inside the length of a message")
    length = check_length(header, limit_bytes)
    payload = _read_exactly(stream, length)
    if len(payload) < length:
        raise ProtocolError(f"the control channel ended after {len(payload)} of {length} bytes of a message")
    return payload


def check_length(header: bytes, limit_bytes: int) -> int:
    """The length that a header of exactly four bytes announces, if it is allowed."""
    length = int.from_bytes(header, "big")
    if length > limit_bytes:
        raise ProtocolError(f"a message of {length} bytes is announced, and the limit is {limit_bytes} bytes")
    return length


def _read_exactly(stream: Readable, size_bytes: int) -> bytes:
    """`size_bytes` bytes, or fewer where the stream ends; reads in pieces, so that memory follows what really came."""
    parts: list[bytes] = []
    missing = size_bytes
    while missing:
        part = stream.read(min(missing, 65536))
        if not part:
            break
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


class FrameBuffer:
    """Cuts frames out of bytes as they come, for a reader that waits with a selector. Not thread-safe."""

    __slots__ = ("_data", "_limit_bytes")

    def __init__(self, limit_bytes: int = EVENT_LIMIT_BYTES) -> None:
        self._data = bytearray()
        self._limit_bytes = limit_bytes

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads that `data` completes. Raises ProtocolError as soon as a length over the limit is seen."""
        self._data += data
        payloads: list[bytes] = []
        position = 0
        while len(self._data) - position >= HEADER_BYTES:
            start = position + HEADER_BYTES
            length = check_length(bytes(self._data[position:start]), self._limit_bytes)
            if len(self._data) - start < length:
                break
            payloads.append(bytes(self._data[start : start + length]))
            position = start + length
        del self._data[:position]
        return payloads

    @property
    def is_between_frames(self) -> bool:
        return not self._data
