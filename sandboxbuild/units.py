"""Sizes and durations as people write them, and as we show them. Pure."""

from __future__ import annotations

import re
from typing import Final

_SIZE: Final = re.compile(r"(\d{1,15})(?:\.(\d{1,6}))?\s*([a-z]{0,3})", re.IGNORECASE | re.ASCII)
_SIZE_UNITS: Final = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_DURATION: Final = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)(ns|us|µs|ms|s|m|h|d)", re.ASCII)
_DURATION_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_size_bytes(text: str) -> int:
    """`64m`, `1.5GiB`, `4096` in bytes; units are powers of 1024, as in docker's --shm-size. Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    unit = match[3].lower().removesuffix("ib") if match else ""
    unit = unit.removesuffix("b") if len(unit) > 1 else unit
    if match is None or unit not in _SIZE_UNITS:
        raise ValueError(f"{text!r} is no size; write for example 64m or 1.5g")
    fraction = int(match[2] or 0) / 10 ** len(match[2] or "")
    return int((int(match[1]) + fraction) * 1024 ** _SIZE_UNITS[unit])


def parse_duration_s(text: str) -> float:
    """`1h30m`, `90s`, `250ms`, or a bare number of seconds. Raises ValueError."""
    stripped = text.strip()
    if stripped.isascii() and stripped.isdigit() and len(stripped) < 13:
        return float(stripped)
    position, total_s = 0, 0.0
    while match := _DURATION.match(stripped, position):
        total_s += float(match[1]) * _DURATION_UNITS[match[2]]
        position = match.end()
    if not stripped or position != len(stripped):
        raise ValueError(f"{text!r} is no duration; write for example 90s or 1h30m")
    return total_s


def format_size(size_bytes: int) -> str:
    """As docker shows it: powers of 1000, three digits or so."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f}{unit}" if unit == "B" else f"{size:.1f}{unit}"
        size /= 1000
    return f"{size:.1f}TB"


def format_duration(seconds: float) -> str:
    """`0.4s`, `12.3s`, `2m05s`, `1h02m`."""
    if seconds < 60:
        return f"{max(seconds, 0.0):.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"
