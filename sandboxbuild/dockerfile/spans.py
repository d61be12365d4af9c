"""Places in a Dockerfile, and errors that show them.

Code that knows no place raises a Fault; who knows the instruction turns it into a DockerfileError with `Place.error`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sandboxbuild.errors import DockerfileError, Span

_SHOWN_LINES: Final = 20
_SHOWN_CHARACTERS: Final = 2_000  # of one line


class Fault(Exception):
    """What is wrong, before it is known where. `at` is the text at fault, as far as it is in the file."""

    def __init__(self, message: str, *, at: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.at = at
        self.hint = hint


class Place(NamedTuple):
    """Lines `line` to `end_line` (from 1, inclusive) of the Dockerfile `file`, whose physical lines are `lines`."""

    file: str
    lines: Sequence[str]
    line: int
    end_line: int

    def span(self, token: str = "") -> Span:
        """The instruction; or where `token` first occurs in it."""
        if token:
            for number in range(self.line, min(self.end_line, len(self.lines)) + 1):
                column = self.lines[number - 1].find(token)
                if column >= 0:
                    return Span(self.file, number, number, column + 1, column + 1 + len(token))
        return Span(self.file, self.line, self.end_line)

    def text(self, span: Span) -> str:
        """The lines of `span`, not more than a screen of them."""
        shown = self.lines[span.line - 1 : min(span.end_line, span.line - 1 + _SHOWN_LINES)]
        return "\n".join(line.rstrip("\r\n")[:_SHOWN_CHARACTERS] for line in shown)

    def error(self, fault: Fault) -> DockerfileError:
        span = self.span(fault.at)
        return DockerfileError(readable(fault.message), span=span, source=readable(self.text(span)), hint=readable(fault.hint))


def readable(text: str) -> str:
    """`text` without lone surrogates, which stand for bytes that are no UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def closest(word: str, known: Sequence[str]) -> str:
    """The one of `known` that `word` may be a misspelling of, or ""."""
    best, distance = "", 3
    for name in sorted(known):
        if abs(len(name) - len(word)) < distance and name.lower() != word.lower():
            found = _distance(word.lower()[:64], name.lower()[:64])
            if found < distance:
                best, distance = name, found
    return best


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """A hint, or ""."""
    match = closest(word, known)
    return f"did you mean {match}?" if match else ""


def _distance(first: str, second: str) -> int:
    """Levenshtein's."""
    row = list(range(len(second) + 1))
    for at, left in enumerate(first, 1):
        previous, row[0] = row[0], at
        for to, right in enumerate(second, 1):
            previous, row[to] = row[to], min(row[to] + 1, row[to - 1] + 1, previous + (left != right))
    return row[-1]
