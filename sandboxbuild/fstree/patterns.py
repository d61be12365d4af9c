"""Moby's pattern lists (.dockerignore, --exclude, the paths of --parents): which paths of a tree they take.

Order matters and `!` takes back. The answer for a path depends on its parents' answers, pattern by pattern, so a walk hands
them down (moby/patternmatcher: MatchesUsingParentResults, which BuildKit's walks use).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from sandboxbuild.errors import InputError
from sandboxbuild.fstree.globs import Glob, ignore_glob
from sandboxbuild.fstree.paths import clean

MAX_PATTERNS = 10_000


class _Pattern(NamedTuple):
    negated: bool
    glob: Glob


class Verdict(NamedTuple):
    """Whether a path is taken, and which patterns matched it or a parent (bit i is pattern i): pass it on to its children."""

    taken: bool
    matched: int


ROOT = Verdict(False, 0)


class Patterns:
    """A compiled list. Raises InputError for a malformed pattern, a bare `!`, or more than MAX_PATTERNS of them."""

    __slots__ = ("_negated", "_patterns")

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = tuple(_compile(text.strip()) for text in patterns if text.strip())
        self._negated = tuple(pattern.glob for pattern in self._patterns if pattern.negated)
        if len(self._patterns) > MAX_PATTERNS:
            raise InputError(f"{len(self._patterns)} patterns are too many", hint=f"at most {MAX_PATTERNS} are taken")

    def __bool__(self) -> bool:
        return bool(self._patterns)

    @property
    def releases(self) -> bool:
        """Whether there is a `!` among them."""
        return bool(self._negated)

    def has(self, *texts: str) -> bool:
        """Whether one of the patterns is written like that."""
        return any(glob.text in texts for _, glob in self._patterns)

    def judge(self, path: str, parent: Verdict) -> Verdict:
        """The verdict on `path`, given its parent's (ROOT for names in the root)."""
        taken, matched = False, 0
        for number, (negated, glob) in enumerate(self._patterns):
            hit = bool(parent.matched >> number & 1) or (negated == taken and glob.matches(path))
            if hit:
                matched |= 1 << number
                taken = not negated
        return Verdict(taken, matched)

    def may_take_below(self, directory: str) -> bool:
        """Whether something below a directory that isn't taken may be; only "no" is certain."""
        return any(not negated and glob.may_match_below(directory) for negated, glob in self._patterns)

    def may_release_below(self, directory: str) -> bool:
        """Whether a `!` may take back something below a directory that is taken; only "no" is certain."""
        return any(glob.may_match_below(directory) for glob in self._negated)


def _compile(text: str) -> _Pattern:
    text = clean(text)
    negated = text.startswith("!")
    if text == "!":
        raise InputError('"!" alone is no pattern', hint="write the path to take back after it")
    return _Pattern(negated, ignore_glob(text[1:] if negated else text))
