"""Which paths of a source tree the words of a COPY name: Go filepath.Match wildcards, cleaned below the root, links kept.

As BuildKit resolves them (fsutil ResolveWildcards): what stands before the first wildcard may pass through links, what comes
after may not, a directory isn't searched deeper than the pattern says, and a leading dot is nothing special.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sandboxbuild.errors import ContextError, InputError
from sandboxbuild.fstree.entry import Entry
from sandboxbuild.fstree.globs import has_wildcards, match_glob
from sandboxbuild.fstree.paths import encode, join, rooted
from sandboxbuild.fstree.tree import Resolved, Tree, resolve

CONTEXT: Final = "the build context"


def select(tree: Tree, pattern: str, where: str) -> tuple[bytes, ...]:
    """The paths that `pattern` names, in order of bytes; () for a wildcard that matches nothing.

    A path without wildcards is returned whether it exists or not. `where` says in errors what the tree is. Raises InputError
    for a malformed pattern, ContextError if the directory before the first wildcard isn't there.
    """
    parts = rooted(pattern).split("/")
    plain = next((number for number, part in enumerate(parts) if has_wildcards(part)), len(parts))
    before = encode("/".join(parts[:plain]))
    if plain == len(parts):
        return (before,)
    match_glob("/".join(parts[plain:]))
    found = [find(tree, before, where).path]
    for part in parts[plain:]:
        found = _step(tree, found, part)
    return tuple(found)


def _step(tree: Tree, directories: list[bytes], part: str) -> list[bytes]:
    """What `part` names in each of `directories`; one that is a file or a link holds nothing."""
    if not has_wildcards(part):
        paths = (join(directory, encode(part)) for directory in directories if _is_directory(tree.entry(directory)))
        return [path for path in paths if tree.entry(path) is not None]
    glob = match_glob(part)
    return [
        join(directory, name)
        for directory in directories
        for name in tree.children(directory)
        if glob.matches(name.decode("utf-8", "surrogateescape"))
    ]


def _is_directory(entry: Entry | None) -> bool:
    return entry is not None and entry.is_directory


class Found(NamedTuple):
    """A path without links, and what is there."""

    path: bytes
    entry: Entry


def find(tree: Tree, path: bytes, where: str) -> Found:
    """What `path` leads to, links followed inside the tree. Raises ContextError if nothing is there."""
    shown = "/" + path.decode("utf-8", "backslashreplace")
    try:
        found = resolve(tree, path)
    except InputError as error:
        raise ContextError(f"{shown} can't be taken from {where}: {error.message}") from error
    if found.entry is None:
        raise ContextError(f"{shown} is not in {where}", hint=_hint(path, found, where))
    return Found(found.path, found.entry)


def _hint(path: bytes, found: Resolved, where: str) -> str:
    if found.path != path:
        return f"a symbolic link leads to /{found.path.decode('utf-8', 'backslashreplace')}, which doesn't exist"
    return "an ignore file may leave it out" if where == CONTEXT else ""
