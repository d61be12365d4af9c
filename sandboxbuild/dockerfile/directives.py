"""Parser directives: `# syntax=`, `# escape=` and `# check=` in the first lines of a Dockerfile.

Source: moby/buildkit frontend/dockerfile/parser/directives.go. Any other line, a blank one too, ends them.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from sandboxbuild.dockerfile.spans import Fault
from sandboxbuild.dockerfile.words import SPACE

_DIRECTIVE: Final = r"([a-zA-Z][a-zA-Z0-9]*)[\t\n\f\r ]*+=[\t\n\f\r ]*+(.+)"
_KNOWN: Final = frozenset(("syntax", "escape", "check"))


class Directives(NamedTuple):
    """`escape` is a backslash or a backquote; `syntax` and `check` are "" where the directive is absent."""

    escape: str = "\\"
    syntax: str = ""
    check: str = ""


def read_directive(line: str) -> tuple[str, str] | None:
    """The name (lower case) and value of a directive, or None if `line`, without its end, is none."""
    if not line.startswith("#"):
        return None
    match = re.fullmatch(_DIRECTIVE, line[1:].strip(SPACE))
    if match is None or match.group(1).lower() not in _KNOWN:
        return None
    return match.group(1).lower(), match.group(2)


def with_directive(directives: Directives, seen: frozenset[str], name: str, value: str) -> Directives:
    """Add one. Raises a Fault for a second one of that name and for an escape that is none."""
    if name in seen:
        raise Fault(f"only one {name} parser directive can be used", at=name)
    if name == "escape":
        if value not in ("\\", "`"):
            raise Fault(f"invalid escape token {value!r}", at=value, hint="it is ` or \\")
        return directives._replace(escape=value)
    return directives._replace(syntax=value) if name == "syntax" else directives._replace(check=value)
