"""Sizes and durations: the text that people write, and the numbers that code counts with (bytes, seconds, nanoseconds)."""

from __future__ import annotations

import re
from typing import Final

from sandboxbuild.errors import UsageError

# Docker's reading (go-units RAMInBytes): every prefix is binary, with or without the "i" and the "b".
_SIZE: Final = re.compile(r"([0-9]{1,20})(?:\.([0-9]{1,20}))? ?([kmgtpe]?)i?b?", re.IGNORECASE | re.ASCII)
_PREFIXES: Final = ("", "k", "m", "g", "t", "p", "e")
_LARGEST: Final = 2**63 - 1

# Go's time.ParseDuration, with days and weeks besides.
_TERM: Final = re.compile(r"([0-9]{1,20})(?:\.([0-9]{1,20}))?(ns|us|µs|μs|ms|s|m|h|d|w)", re.ASCII)
_NANOSECONDS: Final = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
    "w": 604_800_000_000_000,
}


def parse_size(text: str) -> int:
    """Bytes in "64m", "1.5GiB", "10MB" or "4096". A prefix means a power of 1024, as Docker has it. Raises UsageError."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is no size", hint="write a number and a unit, such as 512m or 1.5GiB")
    whole, fraction, prefix = match.group(1), match.group(2) or "", match.group(3).lower()
    size_bytes = _scaled(whole, fraction, 1024 ** _PREFIXES.index(prefix))
    if size_bytes > _LARGEST:
        raise UsageError(f"the size {text!r} is larger than 8 EiB, so it is no size")
    return size_bytes


def format_size(size_bytes: int) -> str:
    """ "512B", "1.5kB", "2.5MB": powers of 1000 with one decimal, as Docker shows them."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f}{unit}" if unit == "B" else f"{size:.1f}{unit}"
        size /= 1000
    return f"{size:.1f}TB"


def parse_duration_ns(text: str) -> int:
    """Nanoseconds in "90s", "1h30m", "24h0m", "1.5h", "250ms" or "7d". "0" needs no unit. Raises UsageError."""
    if text == "0":
        return 0
    total, position = 0, 0
    while match := _TERM.match(text, position):
        total += _scaled(match.group(1), match.group(2) or "", _NANOSECONDS[match.group(3)])
        position = match.end()
    if position != len(text) or not text:
        raise UsageError(f"{text!r} is no duration", hint="write numbers with units, such as 90s, 1h30m or 500ms")
    if total > _LARGEST:
        raise UsageError(f"the duration {text!r} is longer than 292 years, so it is no duration")
    return total


def parse_duration(text: str) -> float:
    """Seconds; the grammar of `parse_duration_ns`, and a bare whole number counts seconds."""
    if text.isascii() and text.isdecimal():
        text += "s"
    return parse_duration_ns(text) / 1e9


def format_duration(seconds: float) -> str:
    """ "0.4s", "12.3s", "2m05s", "1h02m", which `parse_duration` reads back."""
    if seconds < 60:
        return f"{max(seconds, 0.0):.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"


def _scaled(whole: str, fraction: str, factor: int) -> int:
    """whole.fraction times factor, in exact integers, rounded down."""
    return int(whole) * factor + (int(fraction) * factor // 10 ** len(fraction) if fraction else 0)
