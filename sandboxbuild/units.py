"""Sizes and durations: the text that people write, and the numbers that code counts with (bytes, seconds, nanoseconds)."""

from __future__ import annotations

import re
from typing import Final

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
    """Bytes in "64m", "1.5GiB", "10MB" or "4096". A prefix means a power of 1024, as Docker has it. Raises ValueError."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no size: write a number and a unit, such as 512m or 1.5GiB")
    whole, fraction, prefix = match.group(1), match.group(2) or "", match.group(3).lower()
    size_bytes = _scaled(whole, fraction, 1024 ** _PREFIXES.index(prefix))
    if size_bytes > _LARGEST:
        raise ValueError(f"the size {text!r} is larger than 8 EiB, so it is no size")
    return size_bytes


def format_size(size_bytes: int) -> str:
    """ "512B", "1.5kB", "2.5MB": powers of 1000 with one decimal, as Docker shows them."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f}{unit}" if unit == "B" else f"{size:.1f}{unit}"
        size /= 1000
    return f"{size:.1f}TB"


def exact_size(size_bytes: int) -> str:
    """ "8GiB", "1536MiB", "4097B": the largest unit of which it is a whole number, for `parse_size` to read back."""
    power = 0
    while size_bytes and power + 1 < len(_PREFIXES) and size_bytes % 1024 ** (power + 1) == 0:
        power += 1
    prefix = _PREFIXES[power].upper()
    return f"{size_bytes // 1024**power}{prefix}{'i' if prefix else ''}B"


def parse_duration_ns(text: str) -> int:
    """Nanoseconds in "90s", "1h30m", "24h0m", "1.5h", "250ms" or "7d". "0" needs no unit. Raises ValueError."""
    if text == "0":
        return 0
    total, position = 0, 0
    while match := _TERM.match(text, position):
        total += _scaled(match.group(1), match.group(2) or "", _NANOSECONDS[match.group(3)])
        position = match.end()
    if position != len(text) or not text:
        raise ValueError(f"{text!r} is no duration: write numbers with units, such as 90s, 1h30m or 500ms")
    if total > _LARGEST:
        raise ValueError(f"the duration {text!r} is longer than 292 years, so it is no duration")
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


def exact_duration(seconds: float) -> str:
    """ "1h", "1h30m", "2s500ms": to the nanosecond, for `parse_duration` to read back."""
    rest = int(seconds) * _NANOSECONDS["s"] + round(seconds % 1 * 1e9)
    terms = []
    for unit in ("h", "m", "s", "ms", "us", "ns"):
        count, rest = divmod(rest, _NANOSECONDS[unit])
        terms.append(f"{count}{unit}" if count else "")
    return "".join(terms) or "0s"


def _scaled(whole: str, fraction: str, factor: int) -> int:
    """whole.fraction times factor, in exact integers, rounded down."""
    return int(whole) * factor + (int(fraction) * factor // 10 ** len(fraction) if fraction else 0)
