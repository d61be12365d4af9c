"""Go's own spellings, where an image's history or a Dockerfile's syntax follows them: %q, time.Duration, strconv."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from sandboxbuild.dockerfile.spans import Fault

_ESCAPES: Final = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
    '"': '\\"',
}
_UNITS_NS: Final = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_DURATION_PART: Final = r"([0-9]{0,19})(?:\.([0-9]{0,19}))?(ns|us|µs|μs|ms|s|m|h)"
_TRUE: Final = frozenset(("1", "t", "T", "true", "TRUE", "True"))
_FALSE: Final = frozenset(("0", "f", "F", "false", "FALSE", "False"))
_MAX_NS: Final = (1 << 63) - 1


def quote(text: str) -> str:
    """strconv.Quote."""
    return '"' + "".join(_ESCAPES.get(character) or _printable(character) for character in text) + '"'


def _printable(character: str) -> str:
    code = ord(character)
    if character == " " or (character.isprintable() and code != 0x7F):
        return character
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def quote_list(items: Sequence[str]) -> str:
    """A slice under %q."""
    return "[" + " ".join(quote(item) for item in items) + "]"


def plain_list(items: Sequence[str]) -> str:
    """A slice under %v."""
    return "[" + " ".join(items) + "]"


def parse_bool(text: str) -> bool | None:
    """strconv.ParseBool; None is no boolean."""
    return True if text in _TRUE else False if text in _FALSE else None


def parse_uint(text: str, base: int, bits: int) -> int | None:
    """strconv.ParseUint; None is no such number."""
    if not text.isascii() or not text.isdecimal() or len(text) > 40:
        return None
    try:
        value = int(text, base)
    except ValueError:
        return None
    return value if value < 1 << bits else None


def parse_duration_ns(text: str) -> int:
    """time.ParseDuration, such as "1h2m", "1.5s" or "0". Raises a Fault."""
    bare = text[1:] if text[:1] in ("-", "+") else text
    if bare == "0":
        return 0
    total = position = 0
    while position < len(bare):
        match = re.match(_DURATION_PART, bare[position : position + 64])
        if match is None or not (match.group(1) or match.group(2)):
            break
        whole, fraction, unit = int(match.group(1) or "0"), match.group(2) or "", _UNITS_NS[match.group(3)]
        total += whole * unit + int(fraction or "0") * unit // 10 ** len(fraction)
        position += match.end()
    if not bare or position < len(bare) or total > _MAX_NS:
        raise Fault(f"time: invalid duration {text[:100]!r}", at=text, hint="a number and a unit: 300ms, 30s, 5m, 1h")
    return -total if text.startswith("-") else total


def format_duration(nanoseconds: int) -> str:
    """time.Duration.String of a duration that isn't negative."""
    if nanoseconds < 10**9:
        return _below_a_second(nanoseconds)
    seconds, fraction = divmod(nanoseconds, 10**9)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    shown = str(seconds) + (f".{fraction:09d}".rstrip("0") if fraction else "") + "s"
    return (f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else "") + shown


def _below_a_second(nanoseconds: int) -> str:
    for size, unit in ((10**6, "ms"), (10**3, "µs"), (1, "ns")):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.6f}".rstrip("0").rstrip(".") + unit
    return "0s"
