"""TOML of operators: read strictly, with the line of every key, which tomllib doesn't tell.

The locator scans text that tomllib has accepted already, so it only has to find keys, not to judge them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from sandboxbuild.errors import PolicyError

SIZE_LIMIT_BYTES: Final = 256 * 1024
KeyPath = tuple["str | int", ...]

_SPACE: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BLANK: Final = re.compile(r"[ \t]*")
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_STRING: Final = re.compile(
    r'"""(?:\\.|(?!""").)*?"{3,5}|'
    r"'''.*?'{3,5}|"
    r'"(?:\\.|[^"\\\n])*"|'
    r"'[^'\n]*'",
    re.DOTALL,
)
_SCALAR: Final = re.compile(r"[^,\]\}\n#]+")
_AT_LINE: Final = re.compile(r" \(at line (\d+), column \d+\)")


class Located(NamedTuple):
    """A document, and where its keys are: `lines` maps a path such as ("network", "run", "allow", 0) to a line from 1."""

    file: str
    document: Mapping[str, Any]
    lines: Mapping[KeyPath, int]

    def line_of(self, path: Sequence[str | int]) -> int:
        """The line of `path`, or of the nearest key above it; 1 for the document."""
        known = tuple(path)
        while known and known not in self.lines:
            known = known[:-1]
        return self.lines.get(known, 1)


def read_toml(file: str, data: bytes) -> Located:
    """Parse and locate. Raises PolicyError with file and line for anything but UTF-8 TOML of a reasonable size."""
    if len(data) > SIZE_LIMIT_BYTES:
        raise PolicyError(f"{file}: more than {SIZE_LIMIT_BYTES} bytes, which no policy needs")
    try:
        text = data.decode("utf-8")
        document = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise PolicyError(f"{file}:{line}: not UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise _syntax_error(file, str(error), text) from error
    except (RecursionError, ValueError) as error:
        raise PolicyError(f"{file}:1: nested too deeply, or a number or date that doesn't exist") from error
    return Located(file, document, locate(text.replace("\r\n", "\n")))


def _syntax_error(file: str, message: str, text: str) -> PolicyError:
    match = _AT_LINE.search(message)
    line = int(match[1]) if match else text.count("\n") + 1
    return PolicyError(f"{file}:{line}: not TOML: {_AT_LINE.sub('', message)}")


def locate(text: str) -> dict[KeyPath, int]:
    """The line of each table, key and array element of valid TOML."""
    return _Scanner(text).scan()


class _Scanner:
    """One pass over the text; `_at` never goes back."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._lines: dict[KeyPath, int] = {}
        self._counts: dict[KeyPath, int] = {}
        self._line = 1
        self._counted = 0

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        while True:
            self._skip(_SPACE)
            if self._at >= len(self._text):
                return self._lines
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._assignment(table)

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            self._at += 1  # can't be in valid TOML, but mustn't loop
            return ""
        self._at = match.end()
        return match[0]

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _mark(self, path: KeyPath) -> None:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        self._lines.setdefault(path, self._line)

    def _header(self) -> KeyPath:
        """[a.b] or [[a.b]], which begins the next element of an array."""
        array = self._text.startswith("[[", self._at)
        self._mark(())
        self._at += 2 if array else 1
        path = self._enter(self._key(), elements=not array)
        if array:
            number = self._counts.get(path, 0)
            self._counts[path] = number + 1
            self._mark(path)
            path = (*path, number)
        self._mark(path)
        self._at += 2 if array else 1
        return path

    def _enter(self, names: list[str], *, elements: bool) -> KeyPath:
        """The path of a header's names: a name of an array of tables means its newest element."""
        path: KeyPath = ()
        for position, name in enumerate(names):
            path = (*path, name)
            if path in self._counts and (elements or position < len(names) - 1):
                path = (*path, self._counts[path] - 1)
        return path

    def _key(self) -> list[str]:
        """A dotted key, up to what follows it."""
        names = []
        while True:
            self._skip(_BLANK)
            names.append(self._string() if self._peek() in ('"', "'") else self._skip(_BARE))
            self._skip(_BLANK)
            if self._peek() != ".":
                return names
            self._at += 1

    def _string(self) -> str:
        literal = self._skip(_STRING)
        return str(tomllib.loads(f"k = {literal}")["k"]) if literal else ""

    def _assignment(self, table: KeyPath) -> None:
        start = self._at
        names = self._key()
        end, self._at = self._at, start
        for count in range(1, len(names) + 1):
            self._mark((*table, *names[:count]))
        self._at = end + 1  # the equals sign
        self._value((*table, *names))

    def _value(self, path: KeyPath) -> None:
        self._skip(_BLANK)
        head = self._peek()
        if head == "[":
            self._array(path)
        elif head == "{":
            self._inline_table(path)
        elif head in ('"', "'"):
            self._skip(_STRING)
        else:
            self._skip(_SCALAR)

    def _array(self, path: KeyPath) -> None:
        self._at += 1
        number = 0
        while True:
            self._skip(_SPACE)
            if self._peek() in ("]", ""):
                self._at += 1
                return
            if self._peek() == ",":
                self._at += 1
                continue
            self._mark((*path, number))
            self._value((*path, number))
            number += 1

    def _inline_table(self, path: KeyPath) -> None:
        self._at += 1
        while True:
            self._skip(_SPACE)
            if self._peek() in ("}", ""):
                self._at += 1
                return
            if self._peek() == ",":
                self._at += 1
                continue
            self._assignment(path)
