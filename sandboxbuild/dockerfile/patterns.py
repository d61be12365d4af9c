r"""The patterns of `${name#pattern}`, `%` and `/`: `*`, `?` and backslash, nothing else.

A pattern runs as a set of states kept in the bits of an integer, so no value makes it slow. What matches is what BuildKit's
regular expressions match (frontend/dockerfile/shell/lex.go): the wildcards stop at a newline.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from sandboxbuild.dockerfile.spans import Fault

_STAR: Final = None
_ANY: Final = ""

Item = str | None  # a character, _ANY or _STAR


def parse_pattern(pattern: str) -> tuple[Item, ...]:
    """The items of a pattern. Raises a Fault for a backslash before anything but `*`, `?`, a backslash, `}` and `/`."""
    items: list[Item] = []
    characters = iter(pattern)
    for character in characters:
        if character == "*":
            if not items or items[-1] is not _STAR:
                items.append(_STAR)
        elif character == "?":
            items.append(_ANY)
        elif character == "\\":
            items.append(_escaped(next(characters, ""), pattern))
        else:
            items.append(character)
    return tuple(items)


def _escaped(character: str, pattern: str) -> str:
    if character not in ("*", "?", "\\", "}", "/"):
        raise Fault(f"invalid escape '\\{character}' in the pattern {pattern[:200]!r} of a substitution", at=pattern)
    return character


class _Machine(NamedTuple):
    """Bit i stands for "before item i"; the bit after the last item accepts."""

    stars: int
    wild: int
    literals: dict[str, int]
    accept: int

    def close(self, states: int) -> int:
        return states | (states & self.stars) << 1

    def step(self, states: int, character: str) -> int:
        taken = states & self.literals.get(character, 0)
        if character != "\n":
            taken |= states & self.wild
            return self.close(taken << 1 | states & self.stars)
        return self.close(taken << 1)


def _compile(items: tuple[Item, ...]) -> _Machine:
    stars = wild = 0
    literals: dict[str, int] = {}
    for at, item in enumerate(items):
        bit = 1 << at
        if item is _STAR:
            stars |= bit
        elif item == _ANY:
            wild |= bit
        else:
            literals[item] = literals.get(item, 0) | bit
    return _Machine(stars, wild, literals, 1 << len(items))


def _prefix(machine: _Machine, value: str, start: int, longest: bool) -> int:
    """Where the shortest or longest match that begins at `start` ends, or -1."""
    states = machine.close(1)
    end = start if states & machine.accept else -1
    if end >= 0 and not longest:
        return end
    for at in range(start, len(value)):
        states = machine.step(states, value[at])
        if not states:
            break
        if states & machine.accept:
            end = at + 1
            if not longest:
                break
    return end


def without_prefix(pattern: str, value: str, *, longest: bool) -> str:
    """`${value#pattern}` and `##`."""
    end = _prefix(_compile(parse_pattern(pattern)), value, 0, longest)
    return value if end < 0 else value[end:]


def without_suffix(pattern: str, value: str, *, longest: bool) -> str:
    """`${value%pattern}` and `%%`."""
    backwards = value[::-1]
    end = _prefix(_compile(parse_pattern(pattern)[::-1]), backwards, 0, longest)
    return value if end < 0 else value[: len(value) - end]


def replace(pattern: str, replacement: str, value: str, *, every: bool) -> str:
    """`${value/pattern/replacement}` and `//`: the leftmost match, as long as it can be."""
    items = parse_pattern(pattern)
    machine = _compile(items)
    starts = _starts(items, value)
    pieces: list[str] = []
    position = last_end = 0
    for start in range(len(value) + 1):
        if start < position or not starts[start]:
            continue
        end = _prefix(machine, value, start, longest=True)
        if end == last_end and end == start and start > 0 and pieces:
            continue  # an empty match right behind another one is none
        pieces += (value[last_end:start], _template(replacement, value[start:end]) if every else replacement)
        last_end, position = end, max(end, start + 1)
        if not every:
            break
    return "".join(pieces) + value[last_end:]


def _starts(items: tuple[Item, ...], value: str) -> list[bool]:
    """For each position, whether a match begins there; one pass from the end."""
    machine = _compile(items[::-1])
    states = machine.close(1)
    found = [bool(states & machine.accept)]
    for character in reversed(value):
        states = machine.step(states, character) | machine.close(1)
        found.append(bool(states & machine.accept))
    found.reverse()
    return found


_REFERENCE: Final = r"\$(?:(\$)|\{(\w+)\}|(\w+))"


def _template(replacement: str, match: str) -> str:
    """Go's Regexp.Expand, which BuildKit's `//` goes through: `$$` is `$`, `$0` the match, any other name nothing."""
    if "$" not in replacement:
        return replacement
    return re.sub(_REFERENCE, lambda found: "$" if found[1] else match if (found[2] or found[3]) == "0" else "", replacement)
