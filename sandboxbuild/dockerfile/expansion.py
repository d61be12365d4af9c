"""Variables, quotes and escapes in a word, as BuildKit's shell lexer reads them (frontend/dockerfile/shell/lex.go).

`expand` is one pass from left to right; what a variable holds is not read again. All of `$name`, `${name}` and the modifiers
`- + ? :- :+ :? # ## % %% / //` are known, nested to a bounded depth.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from sandboxbuild.dockerfile import patterns
from sandboxbuild.dockerfile.limits import EXPANSION_DEPTH, Budget
from sandboxbuild.dockerfile.spans import Fault
from sandboxbuild.dockerfile.words import SPACE

_SPECIAL: Final = re.compile(r"""[$'"\\`<]""")
_PARAMETERS: Final = frozenset("@*#?-$!")


@lru_cache(maxsize=1)
def _spaces() -> re.Pattern[str]:
    return re.compile(rf"[{SPACE}]++")


@lru_cache(maxsize=16)
def _one_of(characters: str) -> re.Pattern[str]:
    return re.compile(f"[{re.escape(characters)}]")


class Mode(NamedTuple):
    """How a text is read. `raw_quotes` and `raw_escapes` keep them in the result; `no_quotes` takes quotes for text;
    `keep_unset` leaves a variable that isn't set as it is written."""

    escape: str = "\\"
    raw_quotes: bool = False
    raw_escapes: bool = False
    no_quotes: bool = False
    keep_unset: bool = False


class Expansion(NamedTuple):
    """`pieces` are (text, quoted). `used` are the names that were found, `unset` those that weren't, default or not."""

    pieces: tuple[tuple[str, bool], ...]
    used: frozenset[str] = frozenset()
    unset: frozenset[str] = frozenset()

    @property
    def text(self) -> str:
        return "".join(piece for piece, _ in self.pieces)

    @property
    def words(self) -> tuple[str, ...]:
        """The text split at white space that is neither quoted nor escaped; empty words go."""
        words: list[str] = []
        current: list[str] = []
        for piece, quoted in self.pieces:
            parts = [piece] if quoted else _spaces().split(piece)
            for at, part in enumerate(parts):
                if at and any(current):
                    words.append("".join(current))
                    current = []
                current.append(part)
        if any(current):
            words.append("".join(current))
        return tuple(words)


_NO_MODE: Final = Mode()


def expand(text: str, env: Mapping[str, str], mode: Mode = _NO_MODE, budget: Budget | None = None) -> Expansion:
    """Read `text`. Raises a Fault for a quote or brace without its end, and for a modifier that isn't known."""
    if _SPECIAL.search(text) is None:
        return Expansion(((text, False),))
    lexer = _Lexer(text, env, mode, budget or Budget())
    try:
        pieces = lexer.read("", mode.raw_escapes)
    except Fault as fault:
        raise Fault(f"failed to process {text[:200]!r}: {fault.message}", at=fault.at or text, hint=fault.hint) from None
    return Expansion(tuple(pieces), frozenset(lexer.used), frozenset(lexer.unset))


class _Lexer:
    """Reads one text; `position` is the next character."""

    __slots__ = ("budget", "depth", "env", "mode", "position", "raw_escapes", "text", "unset", "used")

    def __init__(self, text: str, env: Mapping[str, str], mode: Mode, budget: Budget) -> None:
        self.text = text
        self.env = env
        self.mode = mode
        self.budget = budget
        self.position = 0
        self.depth = 0
        self.raw_escapes = mode.raw_escapes
        self.used: set[str] = set()
        self.unset: set[str] = set()

    def peek(self) -> str:
        """The next character, "" at the end."""
        return self.text[self.position : self.position + 1]

    def next(self) -> str:
        character = self.peek()
        self.position += 1
        return character

    def read(self, stop: str, raw_escapes: bool) -> list[tuple[str, bool]]:
        """Pieces up to the character `stop`, which is taken, or to the end for ""."""
        self.depth += 1
        if self.depth > EXPANSION_DEPTH:
            raise Fault("substitutions are nested too deeply")
        before, self.raw_escapes = self.raw_escapes, raw_escapes
        try:
            return self._read(stop)
        finally:
            self.raw_escapes = before
            self.depth -= 1

    def _read(self, stop: str) -> list[tuple[str, bool]]:
        pieces: list[tuple[str, bool]] = []
        while character := self.peek():
            if character == stop:
                self.position += 1
                return pieces
            if character == "$":
                pieces.append((self._dollar(), False))
            elif character == "<" and not self.mode.no_quotes:
                pieces.append((self._heredoc_mark(), True))
            elif character in "'\"" and not self.mode.no_quotes:
                pieces.append((self._single() if character == "'" else self._double(), True))
            elif character == self.mode.escape:
                pieces.append((self._escaped(), True))
            else:
                pieces.append((self._run(stop), False))
        if stop:
            raise Fault(f"unexpected end of statement while looking for matching {stop}")
        return pieces

    def _run(self, stop: str) -> str:
        """Characters that mean nothing here, at least one."""
        return self._up_to(_one_of("$'\"<" + self.mode.escape + stop), at_least=1)

    def _up_to(self, marks: re.Pattern[str], at_least: int) -> str:
        start = self.position
        match = marks.search(self.text, start + at_least)
        self.position = match.start() if match else len(self.text)
        return self.text[start : self.position]

    def _escaped(self) -> str:
        mark = self.next()
        kept = mark if self.raw_escapes else ""
        return kept + self.next()

    def _heredoc_mark(self) -> str:
        """`<<` and the blanks after it belong to the word that follows."""
        start = self.position
        self.position += 1
        if self.peek() == "<":
            self.position += 1
            spaces = _spaces().match(self.text, self.position)
            self.position = spaces.end() if spaces else self.position
        return self.text[start : self.position]

    def _single(self) -> str:
        start = self.position
        end = self.text.find("'", start + 1)
        if end < 0:
            raise Fault("unexpected end of statement while looking for matching single-quote", at=self.text[start:])
        self.position = end + 1
        return self.text[start : end + 1] if self.mode.raw_quotes else self.text[start + 1 : end]

    def _double(self) -> str:
        start = self.position
        quote = self.next()
        kept = quote if self.mode.raw_quotes else ""
        pieces = [kept]
        while character := self.peek():
            if character == quote:
                self.position += 1
                return "".join((*pieces, kept))
            if character == "$":
                pieces.append(self._dollar())
            elif character == self.mode.escape:
                pieces.append(self._escaped_in_quotes())
            else:
                pieces.append(self._quoted_run())
        raise Fault("unexpected end of statement while looking for matching double-quote", at=self.text[start:])

    def _quoted_run(self) -> str:
        return self._up_to(_one_of('$"' + self.mode.escape), at_least=0)

    def _escaped_in_quotes(self) -> str:
        """Only a quote, a dollar and the escape itself can be escaped; before others the escape is text."""
        mark = self.next()
        kept = mark if self.raw_escapes else ""
        character = self.peek()
        if not character:
            return kept
        if character in ('"', "$", mark):
            return kept + self.next()
        return kept + mark

    def _name(self) -> str:
        """A number, a special parameter, or letters, digits and underscores; maybe ""."""
        start = self.position
        first = self.peek()
        if first.isdecimal():
            while self.peek().isdecimal():
                self.position += 1
        elif first in _PARAMETERS and first:
            self.position += 1
        else:
            while (character := self.peek()) and (character.isalpha() or character.isdecimal() or character == "_"):
                self.position += 1
        return self.text[start : self.position]

    def _look_up(self, name: str) -> str | None:
        value = self.env.get(name)
        if value is not None:
            self.used.add(name)
            self.budget.spend(len(value))
        else:
            self.unset.add(name)
        return value

    def _dollar(self) -> str:
        start = self.position
        self.position += 1
        if self.peek() == "{":
            self.position += 1
            try:
                return self._braces(start)
            except Fault as fault:
                raise Fault(fault.message, at=fault.at or self.text[start:], hint=fault.hint) from None
        name = self._name()
        if not name:
            return "$"
        value = self._look_up(name)
        if value is None:
            return f"${name}" if self.mode.keep_unset else ""
        return value

    def _braces(self, start: int) -> str:
        """What follows `${`."""
        if not self.peek():
            raise Fault("syntax error: missing '}'")
        if self.peek() in "{}:":
            raise Fault("syntax error: bad substitution")
        name = self._name()
        mark = self.next()
        if mark == "}":
            return self._keep_or("", name, start)
        if mark == "/":
            return self._replace(name, start)
        if mark == ":":
            second = self.next()
            if second not in ("-", "+", "?"):
                raise Fault(f"unsupported modifier (:{second}) in substitution")
            return self._choose(name, second, start, null_is_unset=True)
        if mark in ("-", "+", "?"):
            return self._choose(name, mark, start, null_is_unset=False)
        if mark in ("#", "%"):
            return self._trim(name, mark, start)
        raise Fault(f"unsupported modifier ({mark}) in substitution" if mark else "syntax error: missing '}'")

    def _keep_or(self, value: str, name: str, start: int) -> str:
        """The variable; or `value`, or with `keep_unset` the text from `start`, if it isn't set."""
        found = self._look_up(name)
        if found is not None:
            return found
        return self.text[start : self.position] if self.mode.keep_unset else value

    def _word(self, stop: str, raw_escapes: bool) -> str:
        try:
            return "".join(piece for piece, _ in self.read(stop, raw_escapes))
        except Fault:
            if self.position >= len(self.text):
                raise Fault(f"syntax error: missing '{stop}'") from None
            raise

    def _choose(self, name: str, mark: str, start: int, *, null_is_unset: bool) -> str:
        """`-`, `+` and `?`, with or without the colon."""
        word = self._word("}", raw_escapes=False)
        value = self._look_up(name)
        if value is None and self.mode.keep_unset:
            return self.text[start : self.position]
        present = value is not None and not (null_is_unset and value == "")
        if mark == "+":
            return word if present else ""
        if present and value is not None:
            return value
        if mark == "-":
            return word
        raise Fault(f"{name}: {word or ('is not allowed to be unset' if value is None else 'is not allowed to be empty')}")

    def _trim(self, name: str, mark: str, start: int) -> str:
        pattern = self._word("}", raw_escapes=True)
        value = self._look_up(name)
        if value is None and self.mode.keep_unset:
            return self.text[start : self.position]
        longest = pattern.startswith(mark)
        without = patterns.without_prefix if mark == "#" else patterns.without_suffix
        return without(pattern[1:] if longest else pattern, value or "", longest=longest)

    def _replace(self, name: str, start: int) -> str:
        every = self.peek() == "/"
        self.position += every
        pattern = self._word("/", raw_escapes=True)
        replacement = self._word("}", raw_escapes=True)
        value = self._look_up(name)
        if value is None and self.mode.keep_unset:
            return self.text[start : self.position]
        result = patterns.replace(pattern, replacement, value or "", every=every)
        self.budget.spend(len(result))
        return result
