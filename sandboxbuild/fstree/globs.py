"""One wildcard pattern, compiled to a set of states that advances over the path character by character.

Patterns and paths both come from strangers, so no pattern may cost more than its length times the path's: Python's `re`
backtracks, and `a*a*a*a*b` would take for ever. A state set is one integer, so a step is a few operations on machine words.
Two dialects share the automaton: Go's filepath.Match (COPY) and Moby's patternmatcher (.dockerignore, --exclude, --parents).
"""

from __future__ import annotations

from typing import NamedTuple

from sandboxbuild.errors import InputError

MAX_PATTERN_LENGTH = 4096


class _Class(NamedTuple):
    """`[a-c]` or `[^a-c]`; each range is (first, last), inclusive. Like Go's, a negated one takes a slash, too."""

    negated: bool
    ranges: tuple[tuple[str, str], ...]

    def takes(self, character: str) -> bool:
        return any(first <= character <= last for first, last in self.ranges) != self.negated


_ANY = "?"  # one character, no slash
_STAR = "*"  # any characters but slashes
_TAIL = "**"  # any characters
_DEEP = "**/"  # nothing, or any characters that end in a slash

_Element = tuple[str, "str | _Class"]  # ("c", a character), ("[", a class) or one of the four above with ""


def match_glob(pattern: str) -> Glob:
    """Go's filepath.Match. Raises InputError for a malformed pattern."""
    return Glob(pattern, _parse(pattern, double_star=False))


def ignore_glob(pattern: str) -> Glob:
    """Moby's patternmatcher: `**` crosses slashes. Raises InputError for a malformed pattern."""
    elements = _parse(pattern, double_star=True)
    ranges = (limits for _, what in elements if isinstance(what, _Class) for limits in what.ranges)
    if any(first > last for first, last in ranges):  # Go's regexp, which Moby compiles to, refuses `[z-a]`; Match doesn't
        raise _malformed(pattern)
    return Glob(pattern, elements)


def has_wildcards(text: str) -> bool:
    """Whether `text` holds one of `*?[` that no backslash guards."""
    escaped = False
    for character in text:
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif character in "*?[":
            return True
    return False


class Glob:
    """A compiled pattern. Immutable but for a cache of characters; thread-safe."""

    __slots__ = (
        "_accepting",
        "_by_character",
        "_deep",
        "_elements",
        "_end",
        "_literal",
        "_loops",
        "_loops_on_slash",
        "_skips",
        "_start",
        "text",
    )

    def __init__(self, text: str, elements: tuple[_Element, ...]) -> None:
        self.text = text
        self._start = _leading_text(elements)
        self._end = _leading_text(elements[::-1])[::-1]
        self._literal = self._start if len(self._start) == len(elements) else None
        self._elements: list[_Element] = []
        self._loops = self._loops_on_slash = self._skips = self._deep = 0
        for kind, what in elements:
            self._add(kind, what)
        self._accepting = 1 << len(self._elements)
        self._by_character: dict[str, int] = {}

    def _add(self, kind: str, what: str | _Class) -> None:
        state = 1 << len(self._elements)
        if kind in (_STAR, _TAIL):
            self._loops |= state
            self._skips |= state
            self._loops_on_slash |= state if kind == _TAIL else 0
        if kind == _DEEP:  # two states: enter or skip both, then stay until a slash leads out
            self._skips |= state
            self._deep |= state
            self._elements.append((kind, ""))
            self._loops |= state << 1
            self._loops_on_slash |= state << 1
            kind, what = "c", "/"
        self._elements.append((kind, what))

    def matches(self, path: str) -> bool:
        """Whether the whole of `path` matches."""
        if self._literal is not None:
            return path == self._literal
        if not (path.startswith(self._start) and path.endswith(self._end)):
            return False
        return bool(self._run(path) & self._accepting)

    def may_match_below(self, directory: str) -> bool:
        """Whether some path below `directory` could match; only "no" is certain. "" is the root."""
        if self._literal is not None:
            return not directory or self._literal.startswith(directory + "/")
        return bool(self._run(directory + "/" if directory else ""))

    def _run(self, path: str) -> int:
        states = self._closed(1)
        for character in path:
            moved = (states & self._taking(character)) << 1
            stayed = states & (self._loops_on_slash if character == "/" else self._loops)
            if not moved and not stayed:
                return 0
            states = self._closed(moved | stayed)
        return states

    def _closed(self, states: int) -> int:
        """`states` with all that are reached without reading a character."""
        while True:
            more = states | (states & self._skips) << 1 | (states & self._deep) << 2
            if more == states:
                return states
            states = more

    def _taking(self, character: str) -> int:
        found = self._by_character.get(character)
        if found is None:
            found = 0
            for number, (kind, what) in enumerate(self._elements):
                found |= _takes(kind, what, character) << number
            self._by_character[character] = found
        return found


def _takes(kind: str, what: str | _Class, character: str) -> bool:
    if isinstance(what, _Class):
        return what.takes(character)
    return what == character if kind == "c" else kind == _ANY and character != "/"


def _leading_text(elements: tuple[_Element, ...]) -> str:
    """The plain characters that every match starts with; read from the other end, that it ends with."""
    text = ""
    for kind, what in elements:
        if kind != "c":
            break
        text += str(what)
    return text


def _parse(pattern: str, *, double_star: bool) -> tuple[_Element, ...]:
    if len(pattern) > MAX_PATTERN_LENGTH:
        raise InputError(f"a pattern of {len(pattern)} characters is too long", hint=f"at most {MAX_PATTERN_LENGTH} are taken")
    elements: list[_Element] = []
    position = 0
    if double_star and pattern.startswith("**") and pattern[2:3] not in ("", "/") and not set(pattern[2:]) & set("*?[\\"):
        # patternmatcher.go tests `**text` by the end of the path, so it takes `sometext` as well.
        elements.append((_TAIL, ""))
        position = 2
    while position < len(pattern):
        element, position = _parse_one(pattern, position, double_star)
        if element[0] not in (_STAR, _TAIL, _DEEP) or elements[-1:] != [element]:
            elements.append(element)
    return tuple(elements)


def _parse_one(pattern: str, position: int, double_star: bool) -> tuple[_Element, int]:
    character = pattern[position]
    if character == "*":
        if double_star and pattern.startswith("**", position):
            return _double_star(pattern, position + 2)
        return (_STAR, ""), position + 1
    if character == "?":
        return (_ANY, ""), position + 1
    if character == "[":
        return _parse_class(pattern, position + 1)
    if character == "\\":
        position += 1
        if position == len(pattern):
            raise _malformed(pattern)
    return ("c", pattern[position]), position + 1


def _double_star(pattern: str, position: int) -> tuple[_Element, int]:
    """patternmatcher.go: `**` takes a slash that follows with it; at the end it takes all, elsewhere whole directories."""
    if pattern.startswith("/", position):
        position += 1
    return ((_TAIL if position == len(pattern) else _DEEP), ""), position


def _parse_class(pattern: str, position: int) -> tuple[_Element, int]:
    negated = pattern.startswith("^", position)
    position += negated
    ranges: list[tuple[str, str]] = []
    while not (ranges and pattern.startswith("]", position)):
        first, position = _class_character(pattern, position)
        last = first
        if pattern.startswith("-", position):
            last, position = _class_character(pattern, position + 1)
        ranges.append((first, last))
    return ("[", _Class(negated, tuple(ranges))), position + 1


def _class_character(pattern: str, position: int) -> tuple[str, int]:
    """Go filepath.getEsc: no bare `-` or `]`, and the class must go on after it."""
    if position >= len(pattern) or pattern[position] in "-]":
        raise _malformed(pattern)
    if pattern[position] == "\\":
        position += 1
    if position + 1 >= len(pattern):
        raise _malformed(pattern)
    return pattern[position], position + 1


def _malformed(pattern: str) -> InputError:
    return InputError(f"malformed pattern {pattern!r}", hint="a `[` needs its `]`, and a `\\` something after it")
