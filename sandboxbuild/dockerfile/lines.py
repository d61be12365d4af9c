"""Bytes to logical lines to instructions: the one importer of dockerfile-parse, which gets to see normalised lines alone.

Byte order mark, line ends, comments, continuations, directives and here-documents are read here, as BuildKit does
(frontend/dockerfile/parser/parser.go); the library then cuts each logical line into instruction and value.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from sandboxbuild.dockerfile import limits
from sandboxbuild.dockerfile.directives import Directives, read_directive, with_directive
from sandboxbuild.dockerfile.heredocs import Heredoc, marks_of
from sandboxbuild.dockerfile.spans import Fault, Place
from sandboxbuild.dockerfile.words import SPACE, Flags, check_text, json_strings, split_flags, split_once

_BOM: Final = b"\xef\xbb\xbf"
_SENTINEL: Final = "\x01"
_WITH_HEREDOCS: Final = frozenset(("RUN", "COPY", "ADD"))


class LogicalLine(NamedTuple):
    """One instruction's text with its continuations joined, and the here-documents after it.

    `comments` are the comment lines right above, `gap` says that an empty line interrupts a continuation.
    """

    text: str
    place: Place
    comments: tuple[str, ...] = ()
    heredocs: tuple[Heredoc, ...] = ()
    gap: bool = False


class Words(NamedTuple):
    """A logical line cut up: the instruction as written, its flags, the rest."""

    written: str
    flags: tuple[str, ...]
    rest: str


class Lines(NamedTuple):
    """A Dockerfile's logical lines, each with its cut."""

    lines: tuple[tuple[LogicalLine, Words], ...]
    directives: Directives
    place: Place


def read_lines(text: bytes, filename: str) -> Lines:
    """Raises DockerfileError."""
    physical = _physical_lines(text, filename)
    place = Place(filename, physical, 1, max(1, len(physical)))
    reader = _Reader(physical, filename)
    try:
        logical = reader.read()
    except Fault as fault:
        raise Place(filename, physical, reader.first or 1, max(reader.at, 1)).error(fault) from None
    if not logical:
        raise place._replace(end_line=1).error(Fault("file with no instructions", hint="a Dockerfile begins with FROM"))
    return Lines(tuple(zip(logical, _cut(logical), strict=True)), reader.directives, place)


def _physical_lines(text: bytes, filename: str) -> list[str]:
    """With their ends. Bytes that are no UTF-8 become lone surrogates, and are refused where they matter."""
    if len(text) > limits.FILE_BYTES:
        fault = Fault(f"the file has {len(text)} bytes, more than {limits.FILE_BYTES}", hint="is this a Dockerfile?")
        raise Place(filename, (), 1, 1).error(fault)
    decoded = text.removeprefix(_BOM).decode("utf-8", "surrogateescape")
    lines = decoded.split("\n")
    last = lines.pop()
    return [line + "\n" for line in lines] + ([last] if last else [])


class _Reader:
    """Goes through the physical lines once; `first` to `at` is the instruction being read."""

    def __init__(self, physical: Sequence[str], filename: str) -> None:
        self.physical = physical
        self.filename = filename
        self.at = 0
        self.first = 0
        self.directives = Directives()
        self._seen: frozenset[str] | None = frozenset()
        self._comments: list[str] = []

    def read(self) -> list[LogicalLine]:
        found: list[LogicalLine] = []
        while self.at < len(self.physical):
            line = self._logical_line()
            if line is not None:
                found.append(line)
                if len(found) > limits.INSTRUCTIONS:
                    raise Fault(f"more than {limits.INSTRUCTIONS} instructions")
        return found

    def _next(self) -> str:
        line = self.physical[self.at]
        self.at += 1
        if len(line) > limits.LINE_BYTES:
            self.first = self.at
            raise Fault(f"dockerfile line greater than max allowed size of {limits.LINE_BYTES}")
        return line.rstrip("\r\n")

    def _logical_line(self) -> LogicalLine | None:
        self.first = self.at + 1
        line = self._next().lstrip(SPACE)
        if line.startswith("#"):
            if not self._directive(line):
                self._comment(line)
            return None
        self._seen = None
        if not line:
            self._comments.clear()
            return None
        text, gap = self._continued(line)
        check_text(text)
        heredocs = self._heredocs(text)
        place = Place(self.filename, self.physical, self.first, self.at)
        comments = tuple(self._comments)
        self._comments.clear()
        return LogicalLine(text, place, comments, heredocs, gap)

    def _directive(self, line: str) -> bool:
        if self._seen is None:
            return False
        found = read_directive(line)
        if found is None:
            self._seen = None
            return False
        self.directives = with_directive(self.directives, self._seen, *found)
        self._seen |= {found[0]}
        return True

    def _comment(self, line: str) -> None:
        """An empty comment ends a description, as an empty line does."""
        words = line[1:].strip(SPACE)
        if words:
            self._comments.append(words)
        else:
            self._comments.clear()

    def _continued(self, line: str) -> tuple[str, bool]:
        """`line` with what its continuations add. Comments in between go, empty lines too (the second value)."""
        mark = _continuation(self.directives.escape)
        pieces, gap = [], False
        match = mark.search(line)
        pieces.append(line[: match.start()] if match else line)
        while match and self.at < len(self.physical):
            line = self._next()
            bare = line.lstrip(SPACE)
            if bare.startswith("#"):
                continue
            if not bare:
                gap = True
                continue
            match = mark.search(line)
            pieces.append(line[: match.start()] if match else line)
        return "".join(pieces), gap

    def _heredocs(self, text: str) -> tuple[Heredoc, ...]:
        if "<<" not in text or not _takes_heredocs(text):
            return ()
        marks = marks_of(text)
        if len(marks) > limits.HEREDOCS:
            raise Fault(f"more than {limits.HEREDOCS} here-documents in one instruction")
        return tuple(self._content(mark) for mark in marks)

    def _content(self, mark: Heredoc) -> Heredoc:
        start = self.at
        while self.at < len(self.physical):
            line = self.physical[self.at]
            self.at += 1
            if mark.ends_at(line):
                return mark._replace(content="".join(self.physical[start : self.at - 1]))
        raise Fault("unterminated heredoc", at=mark.name, hint=f"a line with {mark.name} alone ends it")


@lru_cache(maxsize=2)
def _continuation(escape: str) -> re.Pattern[str]:
    """The escape ends a line, blanks after it or not, unless another one is right before it."""
    mark = re.escape(escape)
    return re.compile(rf"(?<!{mark}){mark}[ \t]*\Z")


def _takes_heredocs(text: str) -> bool:
    keyword, rest = split_once(text.strip(SPACE))
    if keyword.upper() == "ONBUILD":
        keyword, rest = split_once(split_flags(rest).rest)
    return keyword.upper() in _WITH_HEREDOCS and json_strings(split_flags(rest).rest) is None


def _cut(lines: Sequence[LogicalLine]) -> list[Words]:
    """Each line's instruction and value, found by dockerfile-parse; the flags by us.

    The sentinel at the end keeps the library from seeing a continuation or a missing value. What it takes for white space
    and BuildKit doesn't is put back.
    """
    from dockerfile_parse import DockerfileParser

    text = "".join(f"{line.text} {_SENTINEL}\n" for line in lines)
    structure = DockerfileParser(fileobj=io.BytesIO(text.encode("utf-8")), env_replace=False).structure
    if len(structure) != len(lines):
        return [cut_line(line.text) for line in lines]
    return [_checked(line.text, entry["instruction"], entry["value"]) for line, entry in zip(lines, structure, strict=True)]


def _checked(text: str, keyword: str, value: str) -> Words:
    bare = text.strip(SPACE)
    written, _ = split_once(bare)
    if written.upper() != keyword:
        return cut_line(text)
    flags, rest = split_flags(value.removesuffix(_SENTINEL))
    return Words(written, flags, rest)


def cut_line(text: str) -> Words:
    """The same for a line that stands alone: a trigger of ONBUILD."""
    written, value = split_once(text.strip(SPACE))
    flags: Flags = split_flags(value)
    return Words(written, flags.words, flags.rest)
