"""Trees and listings for the tests of COPY, in a short form."""

from __future__ import annotations

import stat

from sandboxbuild.fstree.actions import (
    FileAction,
    MakeDirectory,
    MakeHardlink,
    MakeNode,
    MakeSymlink,
    Remove,
    SetMetadata,
    UnpackArchive,
    WriteBytes,
    WriteFile,
)
from sandboxbuild.fstree.entry import Entry
from sandboxbuild.fstree.tree import FileTree

NOW_NS = 1_000


def file(path: str, mode: int = 0o644, uid: int = 0, gid: int = 0, **more: object) -> Entry:
    return Entry(path.encode(), stat.S_IFREG | mode, uid, gid, mtime_ns=7)._replace(**more)  # type: ignore[arg-type]


def folder(path: str, mode: int = 0o755, uid: int = 0, gid: int = 0) -> Entry:
    return Entry(path.encode(), stat.S_IFDIR | mode, uid, gid, mtime_ns=8)


def link(path: str, target: str) -> Entry:
    return Entry(path.encode(), stat.S_IFLNK | 0o777, link_target=target.encode(), mtime_ns=9)


def tree(*entries: Entry | str) -> FileTree:
    return FileTree(file(entry) if isinstance(entry, str) else entry for entry in entries)


def after(actions: tuple[FileAction, ...]) -> dict[str, str]:
    """What the actions make, as path -> "type mode uid:gid [source]"; removed paths are "removed"."""
    made: dict[str, str] = {}
    for action in actions:
        made["/" + action.path.decode()] = _described(action)
    return made


def _described(action: FileAction) -> str:
    match action:
        case MakeDirectory():
            return f"dir {action.mode:04o} {action.uid}:{action.gid}"
        case SetMetadata():
            return "times" if action.mode is None else f"set {action.mode:04o} {action.uid}:{action.gid}"
        case WriteFile():
            return f"file {action.mode:04o} {action.uid}:{action.gid} {action.source.path.decode()}"
        case WriteBytes():
            return f"bytes {action.mode:04o} {action.uid}:{action.gid} {action.content.decode()}"
        case MakeSymlink():
            return f"link {action.uid}:{action.gid} {action.target.decode()}"
        case MakeHardlink():
            return f"hard {action.existing.decode()}"
        case MakeNode():
            return f"node {action.mode:o} {action.rdev}"
        case UnpackArchive():
            return f"unpack {action.source.path.decode()} {action.uid}:{action.gid}"
        case Remove():
            return "removed"
