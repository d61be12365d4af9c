"""Cutting an instruction's text into words the way BuildKit's parser does: flags, quotes, JSON arrays, white space.

Source: moby/buildkit frontend/dockerfile/parser, split_command.go and line_parsers.go. Nothing is expanded here.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any, Final, NamedTuple

from sandboxbuild.dockerfile.spans import Fault

SPACE: Final = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)
"""Go's unicode.IsSpace; str.isspace takes four control characters more."""

_BLANKS: Final = re.compile(r"[\t\v\f\r ]+")


class Flags(NamedTuple):
    """`words` are the leading `--name[=value]` without quotes; `rest` is what follows them."""

    words: tuple[str, ...]
    rest: str


def split_blanks(text: str) -> tuple[str, ...]:
    """Words between blanks; quotes mean nothing."""
    return tuple(_BLANKS.split(text)) if text else ()


def split_once(text: str) -> tuple[str, str]:
    """The first word and what follows the blanks after it ("" where there is only one word)."""
    parts = _BLANKS.split(text, maxsplit=1)
    return parts[0], parts[1] if len(parts) > 1 else ""


@lru_cache(maxsize=2)
def _word_pattern(escape: str) -> re.Pattern[str]:
    mark = re.escape(escape)
    escaped = rf"(?!{mark}\Z){mark}[\s\S]"  # asks first: a body of (...)*+ that fails half-way goes wrong in CPython 3.11
    pieces = (
        escaped,
        r"'[^']*+'?",
        rf'"(?:{escaped}|[^"{mark}])*+"?',
        rf"[^{SPACE}'\"{mark}]",
    )
    return re.compile(rf"[{SPACE}]*+((?:{'|'.join(pieces)})*+)(?:{mark}\Z)?")


def split_quoted(text: str, escape: str) -> tuple[str, ...]:
    """Words between white space that is neither quoted nor escaped. Quotes and escapes stay; a last lone escape goes."""
    words = []
    position = 0
    pattern = _word_pattern(escape)
    while position < len(text):
        match = pattern.match(text, position)
        if match is None or match.end() == position:
            break
        if match.group(1):
            words.append(match.group(1))
        position = match.end()
    return tuple(words)


@lru_cache(maxsize=1)
def _flag_patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """White space; and a piece of a word: escaped, in one quote, in the other, plain, or a last lone backslash."""
    piece = rf"""\\([\s\S])|'((?:(?!\\\Z)\\[\s\S]|[^'\\])*+)'?|"((?:(?!\\\Z)\\[\s\S]|[^"\\])*+)"?|([^{SPACE}'"\\]++)|\\\Z"""
    return re.compile(rf"[{SPACE}]*+"), re.compile(piece)


def split_flags(text: str) -> Flags:
    """Take the flags off the front. A word `--` ends them and goes."""
    text = text.strip(SPACE)
    words: list[str] = []
    position = 0
    while text.startswith("--", position):
        spaces, piece = _flag_patterns()
        word, position = _flag_word(text, position, piece)
        match = spaces.match(text, position)
        position = match.end() if match else position
        if word == "--":
            break
        words.append(word)
    return Flags(tuple(words), text[position:])


def _flag_word(text: str, position: int, piece: re.Pattern[str]) -> tuple[str, int]:
    """One word with its quotes and escapes taken away, and where it ends."""
    pieces: list[str] = []
    while match := piece.match(text, position):
        escaped, single, double, plain = match.groups()
        quoted = single if single is not None else double
        pieces.append(re.sub(r"\\([\s\S])", r"\1", quoted) if quoted is not None else escaped or plain or "")
        position = match.end()
    return "".join(pieces), position


def json_strings(text: str) -> tuple[str, ...] | None:
    """The elements of a JSON array of strings, or None if `text` is anything else."""
    array = _json_array(text)
    if array is None or not all(isinstance(item, str) for item in array):
        return None
    return tuple(_without_surrogates(item) for item in array)


def refuse_other_array(text: str) -> None:
    """Raise a Fault for a JSON array that holds anything but strings: BuildKit takes it neither for words nor for a shell's."""
    array = _json_array(text)
    if array is not None and not all(isinstance(item, str) for item in array):
        raise Fault(
            "when using JSON array syntax, arrays must be comprised of strings only", at=text, hint="quote each element"
        )


def _json_array(text: str) -> list[Any] | None:
    if not text.startswith("["):
        return None
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, list) else None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _without_surrogates(text: str) -> str:
    """Go's decoder puts U+FFFD for a half of a pair."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def check_text(text: str) -> None:
    """Raise a Fault for what no instruction can hold: bytes that are no UTF-8, and NUL."""
    if "\0" in text:
        raise Fault("a NUL byte in an instruction", hint="is this a Dockerfile?")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            byte = ord(text[error.start]) - 0xDC00
            raise Fault(f"byte 0x{byte:02x} is no UTF-8", hint="save the Dockerfile as UTF-8") from None
