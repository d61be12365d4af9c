"""HTTP/1.1 answers as the gateway writes them, parsed strictly (RFC 9112). http.client costs 27 ms and forgives too much.

Narrower than the RFC on purpose: CRLF only, no folding, no 1xx, no body up to the end of the connection, plain chunks only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

HEAD_LIMIT_BYTES: Final = 64 * 1024
_HEADERS_LIMIT: Final = 100
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.1 ([2-5][0-9]{2})(?: [ -~]{0,100})?")
_FIELD: Final = re.compile(rb"([A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}):([ \t\x21-\x7e\x80-\xff]*)")
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_CHUNK_SIZE: Final = re.compile(rb"[0-9A-Fa-f]{1,8}")
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_VALUE: Final = re.compile(r"[\x20-\x7e\x80-\xff]{0,32768}")
_TARGET: Final = re.compile(r"[\x21-\x7e]{1,16384}")

CHUNKED: Final = -1


class MalformedResponse(ValueError):
    """Bytes that are no answer; the text says what is wrong, without quoting them."""


class ResponseHead(NamedTuple):
    """`length` is the body's size in bytes, or CHUNKED. `reusable` says whether the connection may serve again."""

    status: int
    headers: Mapping[str, str]
    length: int
    reusable: bool


def encode_request(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    """The head of a request. Raises ValueError for anything that can't stand in one."""
    if not _TOKEN.fullmatch(method) or not _TARGET.fullmatch(target):
        raise ValueError("a method or target that HTTP can't carry")
    return f"{method} {target} HTTP/1.1\r\n".encode("ascii") + encode_fields(headers) + b"\r\n"


def encode_fields(headers: Mapping[str, str]) -> bytes:
    """Header lines. Raises ValueError for names and values that could be read as something else."""
    lines = []
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value) or value != value.strip(" "):
            raise ValueError(f"a header {name[:40]!r} that HTTP can't carry")
        lines.append(f"{name}: {value}\r\n")
    return "".join(lines).encode("latin-1")


def parse_head(method: str, head: bytes) -> ResponseHead:
    """The head, without its closing empty line, of the answer to a `method` request. Raises MalformedResponse."""
    lines = head.split(b"\r\n")
    match = _STATUS_LINE.fullmatch(lines[0])
    if match is None:
        raise MalformedResponse("not a status line")
    if len(lines) > _HEADERS_LIMIT:
        raise MalformedResponse("too many headers")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise MalformedResponse("not a header line")
        name = field[1].decode("ascii").lower()
        if name in headers:
            raise MalformedResponse("a header is given twice")
        headers[name] = field[2].strip(b" \t").decode("latin-1")
    status = int(match[1])
    reusable = headers.get("connection", "").lower() != "close"
    return ResponseHead(status, headers, _body_length(method, status, headers), reusable)


def _body_length(method: str, status: int, headers: Mapping[str, str]) -> int:
    coding, length = headers.get("transfer-encoding"), headers.get("content-length")
    if coding is not None and (length is not None or coding.lower() != "chunked"):
        raise MalformedResponse("a transfer coding that isn't understood")
    if length is not None and not _LENGTH.fullmatch(length):
        raise MalformedResponse("a length that isn't a number")
    if method == "HEAD" or status in (204, 304):
        return 0
    if coding is not None:
        return CHUNKED
    if length is None:
        raise MalformedResponse("a body without a length")
    return int(length)


class ChunkedReader:
    """Takes the chunks of a body apart. `receive(count)` gives at most `count` bytes of the connection, b"" at its end."""

    __slots__ = ("_left", "_receive", "finished")

    def __init__(self, receive: Callable[[int], bytes]) -> None:
        self._receive = receive
        self._left = 0
        self.finished = False

    def read(self, count: int) -> bytes:
        """Bytes of the body; b"" after the last chunk. Raises MalformedResponse, also where the connection ends too soon."""
        if self.finished:
            return b""
        if not self._left:
            self._left = self._next_size()
        if not self._left:
            self._expect_line_end()
            self.finished = True
            return b""
        data = self._take(min(count, self._left))
        self._left -= len(data)
        if not self._left:
            self._expect_line_end()
        return data

    def _take(self, count: int) -> bytes:
        data = self._receive(count)
        if not data:
            raise MalformedResponse("the body ends too soon")
        return data

    def _next_size(self) -> int:
        line = b""
        while not line.endswith(b"\r\n"):
            if len(line) > 10:
                raise MalformedResponse("a chunk size that is too long")
            line += self._take(1)
        if not _CHUNK_SIZE.fullmatch(line[:-2]):
            raise MalformedResponse("not a chunk size")
        return int(line, 16)

    def _expect_line_end(self) -> None:
        if self._take(1) + self._take(1) != b"\r\n":
            raise MalformedResponse("a chunk that doesn't end where it should")
