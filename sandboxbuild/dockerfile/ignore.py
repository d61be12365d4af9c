""".dockerignore with Moby's semantics: its text, its patterns, and what they leave out of a context.

Sources: moby/patternmatcher ignorefile.ReadAll for the text, patternmatcher.MatchesUsingParentResults for the rules.
"""

from __future__ import annotations

from typing import Final

from sandboxbuild.errors import InputError, LimitExceeded
from sandboxbuild.fstree.paths import clean, decode, encode, parent_of
from sandboxbuild.fstree.patterns import ROOT, Patterns, Verdict

MAX_IGNORE_BYTES: Final = 1 << 20
_MAX_REMEMBERED: Final = 65_536
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


def ignore_patterns(data: bytes) -> tuple[str, ...]:
    """The patterns of an ignore file: cleaned, relative to the context, `!` kept in front. Raises LimitExceeded."""
    if len(data) > MAX_IGNORE_BYTES:
        raise LimitExceeded(f"the ignore file has {len(data)} bytes", hint=f"at most {MAX_IGNORE_BYTES} are read")
    lines = decode(data.removeprefix(_BYTE_ORDER_MARK)).split("\n")
    return tuple(_pattern(line.strip()) for line in lines if not line.startswith("#") and line.strip())


def _pattern(line: str) -> str:
    bang = "!" if line.startswith("!") else ""
    path = line[1:].strip() if bang else line
    if not path:
        return bang
    path = clean(path)
    return bang + (path[1:] if path.startswith("/") and len(path) > 1 else path)


def parse_ignore(data: bytes) -> IgnoreRules:
    """The rules of an ignore file's bytes. Raises InputError for a malformed pattern, LimitExceeded for a huge file."""
    try:
        return IgnoreRules(Patterns(ignore_patterns(data)))
    except LimitExceeded:
        raise
    except InputError as error:
        raise InputError(f"the ignore file can't be used: {error.message}", hint=error.hint) from error


class IgnoreRules:
    """What an ignore file leaves out. Verdicts on directories are remembered. Thread-safe."""

    __slots__ = ("_patterns", "_verdicts")

    def __init__(self, patterns: Patterns) -> None:
        self._patterns = patterns
        self._verdicts: dict[bytes, Verdict] = {b"": ROOT}

    def ignores(self, path: bytes, is_directory: bool) -> bool:  # noqa: ARG002 - Moby's patterns don't ask, a caller may
        """Whether `path` (relative to the context) is left out, by itself or by a parent; the last match wins."""
        if not self._patterns or not path:
            return False
        return self._patterns.judge(decode(path), self._verdict(parent_of(path))).taken

    def surely_leaves_out(self, source: str) -> bool:
        """Whether the path of a COPY names something that is left out whatever it is: nobody can tell where a `!` is about.

        The context itself is only if everything in it is (BuildKit, validateCopySourcePath).
        """
        path = clean(source).removeprefix("/")
        if self._patterns.releases:
            return False
        if path in ("", "."):
            return self._patterns.has("*", "**", "**/*")
        return self.ignores(encode(path), is_directory=False)

    def may_reinclude_below(self, path: bytes) -> bool:
        """Whether a `!` may take back something below `path`: where it can't, a walk needs not look into it."""
        return self._patterns.may_release_below(decode(path))

    def _verdict(self, directory: bytes) -> Verdict:
        known = self._verdicts
        missing: list[bytes] = []
        while directory not in known:
            missing.append(directory)
            directory = parent_of(directory)
        verdict = known[directory]
        if len(known) > _MAX_REMEMBERED:
            known = self._verdicts = {b"": ROOT}
        for path in reversed(missing):
            verdict = self._patterns.judge(decode(path), verdict)
            known[path] = verdict
        return verdict
