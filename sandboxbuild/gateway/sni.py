"""The name in a TLS ClientHello, read from the raw bytes. Strict and bounded: what isn't understood is refused.

RFC 8446 4.1.2 (ClientHello), 5.1 (records); RFC 6066 3 (server_name); RFC 9849 (encrypted ClientHello).
"""

from __future__ import annotations

from typing import Final, NamedTuple

HELLO_LIMIT: Final = 32 * 1024  # bytes of a whole ClientHello; those with post-quantum keys take about 2 KiB
RECORD_LIMIT: Final = 16 * 1024
_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0
_ENCRYPTED_HELLO: Final = frozenset({0xFE0D, 0xFFCE})  # encrypted_client_hello, and encrypted_server_name before it


class BadHello(ValueError):
    """The bytes are no ClientHello that can be judged."""


class ClientHello(NamedTuple):
    """`name` is the server_name in lower case, "" where there is none; `encrypted` says that a second one is hidden."""

    name: str
    encrypted: bool


def read_client_hello(data: bytes) -> ClientHello | None:
    """The ClientHello at the start of a TLS stream; None while bytes are missing. Raises BadHello."""
    body = _handshake_body(data)
    return None if body is None else _parse_hello(_Reader(body))


def _handshake_body(data: bytes) -> bytes | None:
    """The ClientHello's body out of as many records as it takes."""
    message = b""
    at = 0
    while (length := _hello_length(message)) is None or len(message) < 4 + length:
        header = data[at : at + 5]
        if header[:1] not in (b"", b"\x16") or header[1:2] not in (b"", b"\x03"):
            raise BadHello("not a TLS handshake record")
        if len(header) < 5:
            return None
        size = int.from_bytes(header[3:5])
        if not 0 < size <= RECORD_LIMIT:
            raise BadHello("a record of a size that TLS doesn't allow")
        message += data[at + 5 : at + 5 + size]
        at += 5 + size
    return message[4 : 4 + length]


def _hello_length(message: bytes) -> int | None:
    """The length that the message's head states; None while it isn't there."""
    if message and message[0] != _CLIENT_HELLO:
        raise BadHello("the first message isn't a ClientHello")
    if len(message) < 4:
        return None
    length = int.from_bytes(message[1:4])
    if not 0 < length <= HELLO_LIMIT:
        raise BadHello("a ClientHello of an unusable size")
    return length


class _Reader:
    """A cursor over bytes that never reads past their end."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        part = self._data[self._at : self._at + count]
        if len(part) < count:
            raise BadHello("a ClientHello that is cut short")
        self._at += count
        return part

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, size: int) -> bytes:
        """Bytes behind a length of `size` bytes."""
        return self.take(self.number(size))

    @property
    def at_end(self) -> bool:
        return self._at == len(self._data)


def _parse_hello(hello: _Reader) -> ClientHello:
    hello.take(2 + 32)  # legacy_version, random
    if len(hello.vector(1)) > 32:
        raise BadHello("a session id of more than 32 bytes")
    hello.vector(2)  # cipher suites
    hello.vector(1)  # compression methods
    if hello.at_end:
        return ClientHello("", encrypted=False)
    extensions = _Reader(hello.vector(2))
    if not hello.at_end:
        raise BadHello("bytes behind the ClientHello's extensions")
    return _parse_extensions(extensions)


def _parse_extensions(extensions: _Reader) -> ClientHello:
    seen: set[int] = set()
    name = ""
    while not extensions.at_end:
        kind = extensions.number(2)
        value = extensions.vector(2)
        if kind in seen:
            raise BadHello("an extension that comes twice")
        seen.add(kind)
        if kind == _SERVER_NAME:
            name = _parse_server_name(_Reader(value))
    return ClientHello(name, encrypted=bool(seen & _ENCRYPTED_HELLO))


def _parse_server_name(extension: _Reader) -> str:
    names = _Reader(extension.vector(2))
    if not extension.at_end or names.number(1) != 0:
        raise BadHello("a server_name that isn't a host name")
    raw = names.vector(2)
    if not names.at_end or not raw:
        raise BadHello("not exactly one server_name")
    try:
        return raw.decode("ascii").lower()
    except UnicodeDecodeError:
        raise BadHello("a server_name that isn't ASCII") from None
