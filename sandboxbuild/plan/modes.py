"""The text of --chmod: octal, or the symbolic modes of chmod(1).

Symbolic modes follow BSD's setmode(3) with an empty umask, which is what BuildKit uses (tonistiigi/dchapes-mode).
"""

from __future__ import annotations

import stat
from typing import Final, NamedTuple

from sandboxbuild.errors import InputError

_WHO: Final = {"u": 0o4700, "g": 0o2070, "o": 0o0007, "a": 0o6777}
_SHIFTS: Final = {"u": 6, "g": 3, "o": 0}
_STICKY: Final = 0o1000
_NOT_STICKY: Final = 0o6777
_EXECUTE: Final = 0o111


class _Change(NamedTuple):
    """One `who op permissions`. `who` is a mask of bits; `copies` are the classes of `g=u`; `search` is `X`."""

    who: int
    operator: str
    bits: int
    copies: str
    search: bool


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
    changes = []
    while rest:
        operator, rest = rest[0], rest[1:]
        permissions = rest[: len(rest) - len(rest.lstrip("rwxXstugo"))]
        rest = rest[len(permissions) :]
        if rest[:1] not in ("", "+", "-", "="):
            raise InputError(f"invalid --chmod {text!r}", hint=f"{rest[:1]!r} is no permission")
        changes.append(_parse_change(named, operator, permissions))
    return changes


def _parse_change(named: str, operator: str, permissions: str) -> _Change:
    who = 0
    for letter in named:
        who |= _WHO[letter]
    special = not named or bool(who & ~_WHO["o"])  # setmode(3): set-id and sticky mean nothing to "other" alone
    bits = sum({"r": 0o444, "w": 0o222, "x": 0o111}.get(letter, 0) for letter in set(permissions))
    bits |= 0o6000 if "s" in permissions and special else 0
    bits |= _STICKY if "t" in permissions and special else 0
    mask = (who or _NOT_STICKY) | (bits & _STICKY)
    return _Change(mask, operator, bits, "".join(letter for letter in permissions if letter in _SHIFTS), "X" in permissions)


def _changed(mode: int, change: _Change, searchable: bool) -> int:
    bits = change.bits | (_EXECUTE if change.search and searchable else 0)
    for letter in change.copies:
        bits |= (mode >> _SHIFTS[letter] & 0o7) * _EXECUTE
    bits &= change.who
    if change.operator == "+":
        return mode | bits
    if change.operator == "-":
        return mode & ~bits
    return mode & ~change.who | bits
