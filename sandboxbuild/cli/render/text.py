"""Strangers' bytes as text that can do nothing: no escape, no control character, no bidi override, no faked line.

Everything shown that came out of a sandbox, a Dockerfile or a registry passes through here. Pure.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

# ECMA-48: control sequences (colours, cursor) carry no text and are dropped; all else is made visible.
_CONTROL_SEQUENCE: Final = re.compile(r"\x1b\[[0-?]{0,64}[ -/]{0,8}[@-~]")
_BIDI: Final = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_LINE_BREAKS: Final = (0x2028, 0x2029)
_TABLE: Final = {
    **{code: chr(0x2400 + code) for code in range(32) if code != 9},
    0x7F: "\u2421",
    **dict.fromkeys((*range(0x80, 0xA0), *_BIDI, *_LINE_BREAKS, *range(0xD800, 0xE000)), "\ufffd"),
    9: "    ",
}

# What runners read as commands anywhere in a line: Azure's ##vso[, GitHub's ##[command], TeamCity's, GitLab's sections.
_COMMAND: Final = re.compile(r"##(?=\[|vso|team)|(?<=section)_(?=start:|end:)", re.IGNORECASE)
_LINE_COMMAND: Final = re.compile(r"^(\s*):(?=:)")
ZERO_WIDTH_SPACE: Final = "\u200b"

LINE_LIMIT_BYTES: Final = 16 * 1024


def safe_line(text: str | bytes) -> str:
    """One line, whatever was in `text`: decoded, colours dropped, every control character made visible."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    if text.isascii() and text.isprintable():
        return text
    return _CONTROL_SEQUENCE.sub("", text).translate(_TABLE)


def safe_words(text: str) -> str:
    """A name on one line: line breaks and runs of spaces become one space."""
    return safe_line(" ".join(text.split()))


def disarm(line: str) -> str:
    """A safe line in which no CI runner finds a command of its own."""
    if "##" not in line and "section" not in line.lower() and "::" not in line:
        return line
    line = _COMMAND.sub(lambda match: match[0] + ZERO_WIDTH_SPACE, line)
    return _LINE_COMMAND.sub(lambda match: match[1] + ":" + ZERO_WIDTH_SPACE, line)


class Lines:
    """Cuts a stream of bytes into lines; LF ends one, and so does a lone CR (progress bars). Bounded by LINE_LIMIT_BYTES."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their ends; a line over the limit comes in pieces."""
        whole = (self._rest + data).replace(b"\r\n", b"\n")
        pending_return = whole.endswith(b"\r")  # its LF may come with the next bytes
        if pending_return:
            whole = whole[:-1]
        *lines, rest = whole.replace(b"\r", b"\n").split(b"\n")
        while len(rest) > LINE_LIMIT_BYTES:
            lines.append(rest[:LINE_LIMIT_BYTES])
            rest = rest[LINE_LIMIT_BYTES:]
        self._rest = rest + b"\r" if pending_return else rest
        return [piece for line in lines for piece in _pieces(line)]

    def end(self) -> list[bytes]:
        """What is left without a line end."""
        rest, self._rest = self._rest.rstrip(b"\r"), b""
        return [rest] if rest else []


def _pieces(line: bytes) -> list[bytes]:
    return [line[start : start + LINE_LIMIT_BYTES] for start in range(0, len(line), LINE_LIMIT_BYTES)] or [b""]


def display_width(text: str) -> int:
    """Columns that a terminal needs for a safe line."""
    if text.isascii():
        return len(text)
    return sum(_character_width(character) for character in text)


def fit(text: str, width: int) -> str:
    """A safe line cut to `width` columns, with an ellipsis where something is missing."""
    if display_width(text) <= width:
        return text
    used, kept = 0, []
    for character in text:
        used += _character_width(character)
        if used > width - 1:
            break
        kept.append(character)
    return "".join(kept) + "…" if width > 0 else ""


def _character_width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) == "Cf":
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
