"""DNS messages, as little of them as names need: one question in, addresses out (RFC 1035, 6891). Pure, strict, bounded."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

A: Final = 1
CNAME: Final = 5
AAAA: Final = 28
OPT: Final = 41
INTERNET: Final = 1
NOERROR: Final = 0
FORMERR: Final = 1
SERVFAIL: Final = 2
NXDOMAIN: Final = 3
NOTIMP: Final = 4
MESSAGE_LIMIT: Final = 4096
_HEADER: Final = struct.Struct("!HHHHHH")
_RECORD: Final = struct.Struct("!HHIH")
_NAME_LIMIT: Final = 255
_POINTER_LIMIT: Final = 16


class BadMessage(ValueError):
    """No message that is understood. `query_id` where there was one, for a FORMERR; -1 for bytes that deserve no answer."""

    def __init__(self, reason: str, query_id: int = -1, opcode: int = 0) -> None:
        super().__init__(reason)
        self.query_id = query_id
        self.opcode = opcode


class Query(NamedTuple):
    """One question. `name` in lower case without the root's dot; `question` is its wire form, to be echoed."""

    query_id: int
    name: str
    kind: int
    recursion_desired: bool
    question: bytes
    edns: bool


def read_query(data: bytes) -> Query:
    """The question in `data`. Raises BadMessage for all that isn't a plain query for one name of class IN."""
    if len(data) < _HEADER.size or len(data) > MESSAGE_LIMIT:
        raise BadMessage("a message of a size that no query has")
    query_id, flags, questions, answers, authorities, extras = _HEADER.unpack_from(data)
    if flags & 0x8000:
        raise BadMessage("an answer instead of a query")
    opcode = flags >> 11 & 15
    if opcode:
        raise BadMessage("an operation other than a query", query_id, opcode)
    if questions != 1 or answers or authorities or extras > 1:
        raise BadMessage("not exactly one question", query_id)
    name, at = _read_plain_name(data, _HEADER.size, query_id)
    if len(data) < at + 4:
        raise BadMessage("a question that is cut short", query_id)
    kind, class_ = struct.unpack_from("!HH", data, at)
    if class_ != INTERNET:
        raise BadMessage("a class other than IN", query_id)
    return Query(query_id, name, kind, bool(flags & 0x100), data[_HEADER.size : at + 4], extras == 1)


def _read_plain_name(data: bytes, at: int, query_id: int) -> tuple[str, int]:
    """A name without pointers, as questions have it, and where it ends. Labels that aren't ASCII text become `?`."""
    labels: list[str] = []
    start = at
    while True:
        length = data[at] if at < len(data) else 64
        if length > 63 or at + 1 + length > len(data) or at - start > _NAME_LIMIT:
            raise BadMessage("a malformed name", query_id)
        at += 1
        if not length:
            return ".".join(labels), at
        labels.append(_label_text(data[at : at + length]))
        at += length


def _label_text(label: bytes) -> str:
    """A label in lower case; bytes that a host name can't hold, dots among them, become `?`."""
    return "".join(chr(byte) if 33 <= byte < 127 and byte != 46 else "?" for byte in label).lower()


def write_answer(query: Query, code: int, addresses: tuple[bytes, ...] = (), ttl_s: int = 60) -> bytes:
    """An answer with an A or AAAA record for each of `addresses` (4 or 16 bytes)."""
    flags = 0x8080 | code | (0x100 if query.recursion_desired else 0)
    records = b"".join(
        b"\xc0\x0c" + _RECORD.pack(A if len(address) == 4 else AAAA, INTERNET, ttl_s, len(address)) + address
        for address in addresses
    )
    extra = b"\0" + struct.pack("!HHIH", OPT, 1232, 0, 0) if query.edns else b""
    header = _HEADER.pack(query.query_id, flags, 1, len(addresses), 0, int(query.edns))
    return header + query.question + records + extra


def write_error(query_id: int, code: int) -> bytes:
    """An answer to a query that wasn't understood."""
    return _HEADER.pack(query_id, 0x8080 | code, 0, 0, 0, 0)


def write_query(query_id: int, name: str, kind: int) -> bytes:
    """A recursive question for `name`, which name_fault() has let through."""
    labels = b"".join(bytes((len(label),)) + label.encode("ascii") for label in name.split("."))
    return _HEADER.pack(query_id, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", kind, INTERNET)


class Answer(NamedTuple):
    """`addresses` in wire form; `truncated` asks for TCP."""

    code: int
    addresses: tuple[bytes, ...]
    truncated: bool


def read_answer(data: bytes, query: bytes, kind: int) -> Answer:
    """The addresses of type `kind` in the answer to the message `query`, aliases followed. Raises BadMessage."""
    if len(data) < len(query) or data[:2] != query[:2] or data[12 : len(query)].lower() != query[12:].lower():
        raise BadMessage("an answer to another question")
    _, flags, questions, answers, _, _ = _HEADER.unpack_from(data)
    if not flags & 0x8000 or questions != 1:
        raise BadMessage("no answer")
    wanted, _ = _read_name(data, _HEADER.size)
    at, addresses = len(query), []
    size = 4 if kind == A else 16
    for _ in range(min(answers, 64)):
        owner, at = _read_name(data, at)
        if at + _RECORD.size > len(data):
            raise BadMessage("a record that is cut short")
        type_, class_, _, length = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        if at + length > len(data):
            raise BadMessage("a record that is cut short")
        if class_ == INTERNET and owner == wanted and type_ == CNAME:
            wanted, _ = _read_name(data, at)
        elif class_ == INTERNET and owner == wanted and type_ == kind and length == size:
            addresses.append(data[at : at + length])
        at += length
    return Answer(flags & 15, tuple(addresses), bool(flags & 0x200))


def _read_name(data: bytes, at: int) -> tuple[str, int]:
    """A name with pointers, which must point backwards, and where it ends in the record."""
    labels: list[str] = []
    end = 0
    for _ in range(_POINTER_LIMIT + 128):
        length = data[at] if at < len(data) else 64
        if length & 0xC0 == 0xC0 and at + 1 < len(data):
            target = (length & 0x3F) << 8 | data[at + 1]
            end = end or at + 2
            if target >= at:
                raise BadMessage("a name that points forward")
            at = target
            continue
        if length > 63 or at + 1 + length > len(data):
            raise BadMessage("a malformed name")
        if not length:
            return ".".join(labels), end or at + 1
        labels.append(_label_text(data[at + 1 : at + 1 + length]))
        at += 1 + length
    raise BadMessage("a name that is too long")
