"""The text of --chmod: octal, or the symbolic modes of chmod(1).

Symbolic modes follow BSD's setmode(3) with an empty umask, which is what BuildKit uses (tonistiigi/dchapes-mode).
"""

from __future__ import annotations

import stat
from typing import Final, NamedTuple

from sandboxbuild.errors import InputError

_WHO: Final = {"u": 0o4700, "g": 0o2070, "o": 0o0007, "a": 0o6777}
_PERMISSIONS: Final = {"r": 0o444, "w": 0o222, "x": 0o111}
_SHIFTS: Final = {"u": 6, "g": 3, "o": 0}
_STICKY: Final = 0o1000
_ALL: Final = 0o6777  # what "=" clears without a class
_EVERY: Final = 0o7777
_EXECUTE: Final = 0o111


class _Change(NamedTuple):
    """`+` or `-` of `bits`; `X` of bits where somebody may execute; or a copy from a class, by `operator` into `classes`."""

    kind: str
    bits: int
    operator: str = ""
    classes: tuple[str, ...] = ()


class ModeRule(NamedTuple):
    """What --chmod makes of a mode: `octal` for all, or else `changes` in order."""

    octal: int | None
    changes: tuple[_Change, ...] = ()

    def apply(self, mode: int) -> int:
        """The permission bits (with setuid, setgid, sticky) for a source of st_mode `mode`."""
        if self.octal is not None:
            return self.octal
        searchable = stat.S_ISDIR(mode) or bool(mode & _EXECUTE)
        result = stat.S_IMODE(mode)
        for change in self.changes:
            result = _changed(result, change, searchable)
        return result


def parse_mode(text: str) -> ModeRule:
    """Parse --chmod. Raises InputError."""
    if text[:1].isdigit():
        if not all(digit in "01234567" for digit in text) or int(text, 8) > 0o7777:
            raise InputError(f"invalid --chmod {text!r}", hint="an octal mode lies between 0 and 7777")
        return ModeRule(int(text, 8))
    return ModeRule(None, tuple(change for clause in text.split(",") for change in _parse_clause(clause, text)))


def _parse_clause(clause: str, text: str) -> list[_Change]:
    named = clause[: len(clause) - len(clause.lstrip("ugoa"))]
    rest = clause[len(named) :]
    if rest[:1] not in ("+", "-", "="):
        raise InputError(f"invalid --chmod {text!r}", hint="write it like u=rwX,go=rX or as an octal number")
    who = 0
    for letter in named:
        who |= _WHO[letter]
    changes: list[_Change] = []
    while rest:
        operator, rest = rest[0], rest[1:]
        permissions = rest[: len(rest) - len(rest.lstrip("rwxXstugo"))]
        rest = rest[len(permissions) :]
        if rest[:1] not in ("", "+", "-", "="):
            raise InputError(f"invalid --chmod {text!r}", hint=f"{rest[:1]!r} is no permission")
        changes += _Reader(who, operator).read(permissions)
    return changes


class _Reader:
    """The permissions behind one operator, letter by letter, as setmode(3) reads them: a class copies what is there by then."""

    def __init__(self, who: int, operator: str) -> None:
        self._who = who
        self._special = not who or bool(who & ~_WHO["o"])  # set-id and sticky mean nothing to "other" alone
        self._operator = operator
        self._bits = 0
        self._search = 0
        self._assigned = False
        self._changes: list[_Change] = []

    def read(self, permissions: str) -> list[_Change]:
        for letter in permissions:
            if letter in _SHIFTS:
                self._flush(assigns=False)
                self._assigned |= self._operator == "="
                self._copy(letter)
            else:
                self._take(letter)
        self._flush(assigns=self._operator == "=" and not self._assigned)
        return self._changes

    def _take(self, letter: str) -> None:
        if letter == "X" and self._operator != "-":
            self._search = _EXECUTE
        elif letter == "s" and self._special:
            self._bits |= 0o6000
        elif letter == "t" and self._special:
            self._who |= _STICKY  # alone it is then the only class: `+tx` is `+t`
            self._bits |= _STICKY
        else:
            self._bits |= _PERMISSIONS.get("x" if letter == "X" else letter, 0)

    def _flush(self, *, assigns: bool) -> None:
        if self._bits or assigns:
            if self._operator == "=":
                self._changes.append(_Change("-", self._who or _ALL))
            self._changes.append(_Change("-" if self._operator == "-" else "+", (self._who or _EVERY) & self._bits))
        if self._search:
            self._changes.append(_Change("X", (self._who or _EVERY) & self._search))
        self._bits = self._search = 0

    def _copy(self, letter: str) -> None:
        classes = tuple(name for name in _SHIFTS if not self._who or self._who & (0o4 << _SHIFTS[name]))
        self._changes.append(_Change(letter, 0, self._operator, classes))


def _changed(mode: int, change: _Change, searchable: bool) -> int:
    if change.kind == "X":
        return mode | change.bits if searchable else mode
    if change.kind == "+":
        return mode | change.bits
    if change.kind == "-":
        return mode & ~change.bits
    value = mode >> _SHIFTS[change.kind] & 0o7
    for name in change.classes:
        if change.operator != "+":
            mode &= ~((0o7 if change.operator == "=" else value) << _SHIFTS[name])
        if change.operator != "-":
            mode |= value << _SHIFTS[name]
    return mode
