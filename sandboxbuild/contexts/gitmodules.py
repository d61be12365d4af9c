"""Which repository a submodule is: `.gitmodules` as text, and the addresses in it. Pure; every fault is a ContextError.

Source: gitmodules(5), git-submodule(1) on relative URLs, and git-config(1) for the syntax.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from sandboxbuild.contexts.gitobjects import shown
from sandboxbuild.errors import ContextError

FILE_NAME: Final = b".gitmodules"
SIZE_LIMIT_BYTES: Final = 1024 * 1024
_SECTION: Final = re.compile(rb'\[\s*submodule\s+"((?:[^"\\]|\\.)*)"\s*\]\s*', re.IGNORECASE)
_OTHER_SECTION: Final = re.compile(rb'\[[-.\w]+(?:\s+"(?:[^"\\]|\\.)*")?\s*\]\s*')
_SETTING: Final = re.compile(rb"([A-Za-z][-A-Za-z0-9]*)\s*(?:=\s*(.*))?")
_ESCAPES: Final = {b"n": b"\n", b"t": b"\t", b'"': b'"', b"\\": b"\\"}
_COMMENT: Final = (b"#", b";")


class Submodule(NamedTuple):
    """One section. `path` is from the repository's top; `update` is empty unless the file says how to update."""

    name: bytes
    path: bytes = b""
    url: bytes = b""
    update: bytes = b""


def parse_gitmodules(text: bytes) -> dict[bytes, Submodule]:
    """The submodules by their path. Of a setting that is said twice the last counts, as in git."""
    found: dict[bytes, Submodule] = {}
    current: bytes | None = None
    for number, raw in enumerate(text.replace(b"\\\r\n", b"").replace(b"\\\n", b"").splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith(_COMMENT):
            continue
        if header := _SECTION.match(line):
            current = re.sub(rb"\\(.)", rb"\1", header.group(1))
            found.setdefault(current, Submodule(current))
        elif header := _OTHER_SECTION.match(line):
            current = None
        line = line[header.end() :] if header else line
        if not line or line.startswith(_COMMENT):
            continue
        setting = _SETTING.fullmatch(line)
        if setting is None:
            raise ContextError(f"line {number} of .gitmodules is none that git knows: {shown(line[:80])}")
        name = setting.group(1).lower()
        if current is not None and name in (b"path", b"url", b"update"):
            found[current] = found[current]._replace(**{name.decode("ascii"): _value(setting.group(2) or b"", number)})
    return {module.path.rstrip(b"/"): module for module in found.values() if module.path}


def _value(text: bytes, number: int) -> bytes:
    """A value without quotes, escapes and a comment behind it."""
    made = bytearray()
    quoted = False
    kept = 0
    at = 0
    while at < len(text):
        letter = text[at : at + 1]
        if letter == b"\\":
            made += _escape(text[at + 1 : at + 2], number)
            at += 1
            kept = len(made)
        elif letter == b'"':
            quoted = not quoted
        elif not quoted and letter in _COMMENT:
            break
        else:
            made += letter
            kept = len(made) if quoted or not letter.isspace() else kept
        at += 1
    if quoted:
        raise ContextError(f"line {number} of .gitmodules has a quote without end")
    return bytes(made[:kept])


def _escape(letter: bytes, number: int) -> bytes:
    if letter not in _ESCAPES:
        raise ContextError(f"line {number} of .gitmodules has an escape that git doesn't know")
    return _ESCAPES[letter]


def submodule_url(parent: str, url: str) -> str:
    """The address of a submodule: relative ones begin with ./ or ../ and stand on the parent's. Raises ContextError."""
    if any(ord(letter) <= 32 or ord(letter) == 127 for letter in url) or not url:
        raise ContextError(f"a submodule has the URL {url[:80]!a}")
    if not url.startswith(("./", "../")):
        return url
    base = parent.rstrip("/")
    while True:
        if url.startswith("./"):
            url = url[2:]
        elif url.startswith("../"):
            url = url[3:]
            base, slash, _ = base.rpartition("/")
            if not slash or base.endswith((":/", ":")):
                raise ContextError(f"a submodule's URL leads out of its server: {url[:80]!a}")
        else:
            return f"{base}/{url}".rstrip("/")
