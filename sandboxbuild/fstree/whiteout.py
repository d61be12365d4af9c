"""Whiteouts, both directions: the names by which a layer says what is gone (image-spec layer.md, Whiteouts)."""

from __future__ import annotations

from typing import Final, NamedTuple

PREFIX: Final = b".wh."
OPAQUE_NAME: Final = b".wh..wh..opq"
_AUFS_PREFIX: Final = b".wh..wh."


class Whiteout(NamedTuple):
    """`path` is gone; or, if `opaque`, all that lower layers have in the directory `path` is."""

    path: bytes
    opaque: bool = False


class NotAWhiteout(ValueError):
    """A name with the prefix that hides nothing that can exist."""


def read_whiteout(path: bytes) -> Whiteout | None:
    """What the entry `path` (clean, relative) hides, or None for an ordinary entry.

    Raises NotAWhiteout for a prefix alone, for `.` and `..`, and for an entry below a whiteout.
    """
    if PREFIX not in path:
        return None
    parent, _, name = path.rpartition(b"/")
    if any(part.startswith(PREFIX) for part in parent.split(b"/")):
        raise NotAWhiteout("it lies below a whiteout")
    if name == OPAQUE_NAME:
        return Whiteout(parent, opaque=True)
    if not name.startswith(PREFIX):
        return None
    hidden = name[len(PREFIX) :]
    if hidden in (b"", b".", b".."):
        raise NotAWhiteout("it names no file")
    return Whiteout(parent + b"/" + hidden if parent else hidden)


def is_aufs_bookkeeping(path: bytes) -> bool:
    """Whether `path` is, or lies in, one of the folders with which aufs kept its own records; they mean nothing to us."""
    return _AUFS_PREFIX in path and any(part.startswith(_AUFS_PREFIX) and part != OPAQUE_NAME for part in path.split(b"/"))


def whiteout_path(path: bytes) -> bytes:
    """The name of the entry that says that `path` is gone."""
    parent, slash, name = path.rpartition(b"/")
    return parent + slash + PREFIX + name


def opaque_path(directory: bytes) -> bytes:
    """The name of the entry that makes `directory` (b"" is the root) opaque."""
    return directory + b"/" + OPAQUE_NAME if directory else OPAQUE_NAME


def looks_like_whiteout(path: bytes) -> bool:
    """Whether a file of this name, or a directory that it is in, would be read as a whiteout, so that no layer can hold it."""
    return PREFIX in path and any(part.startswith(PREFIX) for part in path.split(b"/"))
