"""The 512-byte header of tar and the extended headers: bytes -> fields, strictly.

Sources: POSIX pax, "ustar Interchange Format" and "pax Interchange Format"; GNU tar manual, "Basic Tar Format"; star(5).
"""

from __future__ import annotations

import binascii
import struct
import zlib
from functools import lru_cache
from typing import Final, NamedTuple

from sandboxbuild.archive.member import BLOCK

_FIELDS: Final = struct.Struct("100s8s8s8s12s12s8sc100s8s32x32s8s8s155s12s")
_ZEROS: Final = bytes(BLOCK)
_CHECKSUM_AT: Final = 148
_BIG: Final = 1 << 63


class Malformed(Exception):
    """Not tar, or not as it should be; the reader says which archive and raises the caller's class."""


class Header(NamedTuple):
    """The fields of one header block; `path` is joined from prefix and name."""

    path: bytes
    mode: int
    uid: int
    gid: int
    size_bytes: int
    mtime_s: int
    kind: bytes
    link_target: bytes
    rdev: tuple[int, int]


def is_zero(block: bytes) -> bool:
    return block == _ZEROS


def parse_header(block: bytes) -> Header:
    """Read a header block and verify its checksum. Raises Malformed."""
    name, mode, uid, gid, size, mtime, wanted, kind, link, magic, _, major, minor, prefix, tail = _FIELDS.unpack(block)
    _verify(block, wanted)
    path = name.partition(b"\0")[0]
    if prefix[0] and magic == b"ustar\x0000":
        # star(5) keeps its times in the last part of the prefix, and says so at the very end.
        path = _text(prefix[:131] if tail[8:] == b"tar\0" else prefix) + b"/" + path
    rdev = (number(major), number(minor)) if kind in (b"3", b"4") else (0, 0)
    return Header(
        path,
        _repeated(mode) & 0o7777,
        _repeated(uid),
        _repeated(gid),
        number(size),
        _repeated(mtime, signed=True),
        kind,
        _text(link) if link[0] else b"",
        rdev,
    )


def checksum(block: bytes) -> int:
    """The sum of the bytes of a header, its own field counted as spaces.

    The low half of Adler-32 is such a sum, plus 1, and much quicker than sum(); it is exact for up to 256 bytes (RFC 1950).
    """
    adler32 = zlib.adler32
    before, after, last = adler32(block[:148]), adler32(block[156:412]), adler32(block[412:])
    return (before & 0xFFFF) + (after & 0xFFFF) + (last & 0xFFFF) - 3 + 8 * 0x20


def _verify(block: bytes, field: bytes) -> None:
    total = checksum(block)
    if field == b"%06o\0 " % total or number(field) == total:
        return
    # Some old tars summed signed bytes.
    if sum(struct.unpack("148b8x356b", block)) + 8 * 0x20 != number(field):
        raise Malformed("a header's checksum is wrong")


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def number(field: bytes, *, signed: bool = False) -> int:
    """A number in octal text or in GNU's base 256. Raises Malformed, for a negative one too unless `signed`."""
    first = field[0]
    if first in (0x80, 0xFF):
        value = int.from_bytes(field[1:], "big")
        if first == 0xFF:
            value -= 1 << 8 * (len(field) - 1)
    else:
        text = field.partition(b"\0")[0].strip(b" ")
        try:
            value = int(text, 8) if text else 0
        except ValueError:
            raise Malformed(f"{text[:20]!r} is no octal number") from None
    if (value < 0 and not signed) or not -_BIG < value < _BIG:
        raise Malformed(f"a number is out of range: {value}")
    return value


# Modes, owners and times are the same in many entries of an archive.
_repeated = lru_cache(1024)(number)


def parse_pax(data: bytes) -> list[tuple[bytes, bytes]]:
    """The records of an extended header, in order; keys may repeat. Raises Malformed."""
    records = []
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        digits = data[at:space]
        if space < 0 or not digits.isdigit():
            if not data[at:].strip(b"\0"):
                break
            raise Malformed("an extended header has a record without a length")
        end = at + int(digits)
        if end > len(data) or end <= space + 1 or data[end - 1] != 0x0A:
            raise Malformed("an extended header has a record of a wrong length")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals or not key:
            raise Malformed("an extended header has a record without a name")
        records.append((key, value))
        at = end
    return records


def decimal(text: bytes) -> int:
    """A number of an extended header that counts something. Raises Malformed."""
    if not text.isdigit() or len(text) > 19:
        raise Malformed(f"{text[:20]!r} is no number")
    return int(text)


def seconds_to_ns(text: bytes) -> int:
    """A time of an extended header, seconds with an optional fraction, rounded down to nanoseconds. Raises Malformed."""
    negative = text.startswith(b"-")
    whole, _, fraction = text.lstrip(b"-").partition(b".")
    if not (whole or fraction) or not (whole + fraction).isdigit() or len(whole) > 18 or len(fraction) > 30:
        raise Malformed(f"{text[:20]!r} is no time")
    value = int(whole or b"0") * 10**9 + int(fraction[:9].ljust(9, b"0"))
    if not negative:
        return value
    return -value - (1 if fraction[9:].strip(b"0") else 0)


def libarchive_xattr(key: bytes, value: bytes) -> tuple[bytes, bytes]:
    """Undo libarchive's encoding: names are URL-encoded, values base64. Raises Malformed."""
    parts = key.split(b"%")
    name = parts[0]
    try:
        for part in parts[1:]:
            name += binascii.unhexlify(part[:2]) + part[2:]
        return name, binascii.a2b_base64(value + b"=" * (-len(value) % 4))
    except ValueError:
        raise Malformed("an extended attribute is badly encoded") from None
