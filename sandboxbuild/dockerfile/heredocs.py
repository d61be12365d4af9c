"""Here-documents: which words of a RUN, COPY or ADD line begin one, and what its lines are.

Source: moby/buildkit frontend/dockerfile/parser/parser.go. The words are read with a backslash as escape, whatever `# escape=`.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import Final, NamedTuple

from sandboxbuild.dockerfile import limits
from sandboxbuild.dockerfile.expansion import Mode, expand
from sandboxbuild.dockerfile.spans import Fault

_MARK: Final = r"([0-9]*)<<(-?)[\t\n\f\r ]*([^<]*)"
_TABS: Final = r"(?m)^\t+"
_LINE: Final = Mode(raw_quotes=True, raw_escapes=True, keep_unset=True)
_BARE: Final = Mode(keep_unset=True)
_QUOTED: Final = Mode(keep_unset=True, raw_quotes=True)


class Heredoc(NamedTuple):
    """`<<name`. `expand` is False where the name is quoted, `chomp` is `<<-`. `content` keeps tabs and line ends."""

    name: str
    content: str = ""
    expand: bool = True
    chomp: bool = False
    descriptor: int = 0

    @property
    def text(self) -> str:
        """The content as it is used: without leading tabs for `<<-`."""
        return re.sub(_TABS, "", self.content) if self.chomp else self.content

    def ends_at(self, line: str) -> bool:
        """Whether the physical line `line` is the delimiter."""
        bare = line.rstrip("\r\n")
        return (bare.lstrip("\t") if self.chomp else bare) == self.name


def read_mark(word: str) -> Heredoc | None:
    """The here-document that `word` begins, still without content; None if it begins none."""
    match = re.fullmatch(_MARK, word) if "<<" in word else None
    if match is None or not match.group(3):
        return None
    plain = expand(match.group(3), {}, _BARE).words
    if len(plain) != 1:
        return None
    quoted = expand(match.group(3), {}, _QUOTED).words
    same = len(quoted) == 1 and _quotes(quoted[0]) == _quotes(plain[0])
    return Heredoc(plain[0], expand=same, chomp=bool(match.group(2)), descriptor=int(match.group(1)[:9] or "0"))


def is_mark(word: str) -> bool:
    """As `read_mark`, but a malformed word is simply none."""
    try:
        return read_mark(word) is not None
    except Fault:
        return False


def marks_of(line: str) -> tuple[Heredoc, ...]:
    """The here-documents that a logical line begins, in order; none if its quotes don't pair."""
    try:
        words = expand(line, {}, _LINE).words
    except Fault:
        return ()
    marks = (mark for word in words if "<<" in word and (mark := read_mark(word)) is not None)
    return tuple(islice(marks, limits.HEREDOCS + 1))


def _quotes(text: str) -> int:
    return text.count("'") + text.count('"')
