"""HTTP/1.1 requests of strangers, as strictly as a boundary needs: heads, and how long a body is. Pure, no I/O.

Whatever two parsers could read in two ways is refused (RFC 9112 2.2, 3.2, 5.1, 6.3, 7.1, 11.2): bare CR or LF, a space
before a colon, folded lines, two lengths, a length beside a transfer coding, a coding other than chunked, no or two Hosts.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

HEAD_LIMIT: Final = 64 * 1024
FIELD_LIMIT: Final = 100
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_TARGET: Final = re.compile(r"[!-~]+", re.ASCII)
_VALUE: Final = re.compile(r"[\t -~\x80-\xff]*")
_LENGTH: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
_CHUNK_SIZE: Final = re.compile(rb"[0-9A-Fa-f]{1,15}")
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)


class BadRequest(ValueError):
    """Bytes that are no request which has only one reading. The text says why and quotes nothing."""


class Head(NamedTuple):
    """A request's head. `version` is 1.0 or 1.1; `fields` in order, names as sent."""

    method: str
    target: str
    version: str
    fields: tuple[tuple[str, str], ...]

    def values(self, name: str) -> list[str]:
        """All values of the field `name` (lower case)."""
        return [value for key, value in self.fields if key.lower() == name]

    def value(self, name: str) -> str:
        """The one value of a field, "" where it is absent. Raises BadRequest for two."""
        found = self.values(name)
        if len(found) > 1:
            raise BadRequest(f"two {name} fields")
        return found[0] if found else ""


def head_end(data: bytes | bytearray) -> int:
    """Where the body begins; 0 while the head is incomplete. Raises BadRequest for a head that is too long."""
    end = data.find(b"\r\n\r\n", 0, HEAD_LIMIT)
    if end < 0 and len(data) >= HEAD_LIMIT:
        raise BadRequest(f"a head of more than {HEAD_LIMIT} bytes")
    return end + 4 if end >= 0 else 0


def parse_head(data: bytes) -> Head:
    """The head in `data`, which ends in an empty line. Raises BadRequest."""
    lines = data[:-4].decode("latin-1").split("\r\n")
    parts = lines[0].split(" ")
    if len(parts) != 3 or not _TOKEN.fullmatch(parts[0]) or not _TARGET.fullmatch(parts[1]):
        raise BadRequest("a request line that isn't method, target and version")
    if parts[2] not in ("HTTP/1.1", "HTTP/1.0"):
        raise BadRequest("a version other than HTTP/1.1 and 1.0")
    if len(lines) - 1 > FIELD_LIMIT:
        raise BadRequest(f"more than {FIELD_LIMIT} header fields")
    head = Head(parts[0], parts[1], parts[2][5:], tuple(map(_parse_field, lines[1:])))
    if len(head.values("host")) != 1:
        raise BadRequest("not exactly one Host")
    body_length(head)
    return head


def _parse_field(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not _TOKEN.fullmatch(name):
        raise BadRequest("a header field without a proper name")
    if not _VALUE.fullmatch(value):
        raise BadRequest("a control character in a header field")
    return name, value.strip(" \t")


def write_head(head: Head, without: frozenset[str]) -> bytes:
    """The head again, less the fields in `without` (lower case)."""
    lines = [f"{head.method} {head.target} HTTP/{head.version}"]
    lines += [f"{name}: {value}" for name, value in head.fields if name.lower() not in without]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


CHUNKED: Final = -1


def body_length(head: Head) -> int:
    """The body's bytes, or CHUNKED. Raises BadRequest for what is ambiguous."""
    length = head.value("content-length")
    coding = head.value("transfer-encoding")
    lengths, codings = head.values("content-length"), head.values("transfer-encoding")
    if lengths and codings:
        raise BadRequest("a length beside a transfer coding")
    if lengths and not _LENGTH.fullmatch(length):
        raise BadRequest("a length that isn't a number")
    if codings and (coding.lower() != "chunked" or head.version != "1.1"):
        raise BadRequest("a transfer coding other than chunked in HTTP/1.1")
    return CHUNKED if codings else int(length or "0")


class Body:
    """How far a request's body reaches in the bytes that follow its head; `finished` when the last one was seen."""

    __slots__ = ("_chunked", "_left", "_line", "_state", "finished")

    def __init__(self, length: int) -> None:
        self._chunked = length == CHUNKED
        self._left = 0 if self._chunked else length
        self._line = b""
        self._state = "size"
        self.finished = length == 0

    def take(self, data: bytes | memoryview) -> int:
        """How many of the bytes belong to the body. Raises BadRequest for chunks that aren't well-formed."""
        if not self._chunked:
            taken = min(self._left, len(data))
            self._left -= taken
            self.finished = self._left == 0
            return taken
        at = 0
        while at < len(data) and not self.finished:
            at = self._skip(data, at) if self._state == "data" else self._read_line(data, at)
        return at

    def _skip(self, data: bytes | memoryview, at: int) -> int:
        taken = min(self._left, len(data) - at)
        self._left -= taken
        if self._left == 0:
            self._state = "end"
        return at + taken

    def _read_line(self, data: bytes | memoryview, at: int) -> int:
        """Collect a line up to its CRLF; extensions and trailers aren't let through."""
        self._line += bytes(data[at : at + 1])
        if not self._line.endswith(b"\n"):
            if len(self._line) > 17:
                raise BadRequest("a chunk size that is too long")
            return at + 1
        line, self._line = self._line, b""
        if not line.endswith(b"\r\n"):
            raise BadRequest("a bare LF in a chunked body")
        self._end_line(line[:-2])
        return at + 1

    def _end_line(self, line: bytes) -> None:
        if self._state == "size":
            if not _CHUNK_SIZE.fullmatch(line):
                raise BadRequest("a chunk size that isn't a bare number")
            self._left = int(line, 16)
            self._state = "data" if self._left else "last"
            return
        if line:
            raise BadRequest("a chunk of another length than it said, or a trailer")
        self.finished = self._state == "last"
        self._state = "size"


def split_authority(text: str, default_port: int = 0) -> tuple[str, int]:
    """`host:port` in lower case. Raises BadRequest for user names, missing ports (without a default) and empty hosts."""
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port = text, ""
    if not host or "@" in host or (":" in host and not host.startswith("[")):
        raise BadRequest("an authority that isn't host and port")
    if colon and not (_PORT.fullmatch(port) and int(port) < 65536):
        raise BadRequest("a port that isn't a number from 1 to 65535")
    if not colon and not default_port:
        raise BadRequest("an authority without a port")
    return host.lower(), int(port) if colon else default_port
