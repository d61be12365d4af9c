"""git's objects as values: what a tree, a commit and a tag say. Pure; every fault is a ContextError.

Source: gitformat-pack, and the checks of git-fsck that guard a checkout (fsck-msgids: hasDotgit, hasDotdot, fullPathname, ...).
"""

from __future__ import annotations

import hashlib
import re
import stat
from typing import Final, NamedTuple

from sandboxbuild.errors import ContextError

COMMIT: Final = 1
TREE: Final = 2
BLOB: Final = 3
TAG: Final = 4
KIND_NAMES: Final = {COMMIT: b"commit", TREE: b"tree", BLOB: b"blob", TAG: b"tag"}
GITLINK: Final = 0o160000
TAG_DEPTH_LIMIT: Final = 8
NAME_LIMIT_BYTES: Final = 255
_OBJECT_ID: Final = re.compile(rb"[0-9a-f]{40}")
_COMMITTER: Final = re.compile(rb"committer [^\n]*> (-?[0-9]{1,18}) [+-][0-9]{4}")
_FILE_MODES: Final = frozenset({0o100644, 0o100755, 0o100664, 0o100600})


class TreeEntry(NamedTuple):
    """One name of a tree. `mode` has the file's type; of permissions git keeps only whether a file is executable."""

    name: bytes
    mode: int
    object_id: bytes

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.mode)

    @property
    def is_gitlink(self) -> bool:
        return self.mode == GITLINK


class Commit(NamedTuple):
    """`time_s` is the committer's, in seconds since the epoch, never negative."""

    tree: bytes
    time_s: int


def object_id(kind: int, content: bytes) -> bytes:
    """The SHA-1 of an object, 20 bytes."""
    hashing = hashlib.sha1(b"%b %d\0" % (KIND_NAMES[kind], len(content)), usedforsecurity=False)
    hashing.update(content)
    return hashing.digest()


def parse_tree(content: bytes) -> tuple[TreeEntry, ...]:
    """The entries of a tree, as safe to make on disk as a name can be."""
    entries: list[TreeEntry] = []
    seen: set[bytes] = set()
    at = 0
    while at < len(content):
        space = content.find(b" ", at, at + 8)
        end = content.find(b"\0", space) if space > 0 else -1
        if space < 0 or end < 0 or end + 21 > len(content):
            raise ContextError("the repository has a malformed tree")
        entry = TreeEntry(content[space + 1 : end], _mode(content[at:space]), content[end + 1 : end + 21])
        _check_name(entry.name)
        if entry.name in seen:
            raise ContextError(f"the repository has a tree with two entries {shown(entry.name)}")
        seen.add(entry.name)
        entries.append(entry)
        at = end + 21
    return tuple(entries)


def _mode(text: bytes) -> int:
    mode = int(text, 8) if text and all(48 <= digit < 56 for digit in text) else 0
    if mode in _FILE_MODES:
        return stat.S_IFREG | (0o755 if mode & 0o100 else 0o644)
    if mode not in (stat.S_IFDIR, stat.S_IFLNK, GITLINK):
        raise ContextError(f"the repository has a tree with the mode {shown(text)}")
    return mode


def _check_name(name: bytes) -> None:
    if name in (b"", b".", b"..") or b"/" in name or len(name) > NAME_LIMIT_BYTES or name.lower() == b".git":
        raise ContextError(f"the repository has an entry {shown(name[:80])}, which no checkout can hold")


def parse_commit(content: bytes) -> Commit:
    """The tree and the time of a commit."""
    head = content.partition(b"\n\n")[0]
    tree = head[5:45] if head.startswith(b"tree ") and head[45:46] in (b"\n", b"") else b""
    if not _OBJECT_ID.fullmatch(tree):
        raise ContextError("the repository has a malformed commit")
    committer = _COMMITTER.search(head)
    return Commit(bytes.fromhex(tree.decode("ascii")), max(0, int(committer.group(1))) if committer else 0)


def parse_tag(content: bytes) -> bytes:
    """The object that an annotated tag names."""
    target = content[7:47] if content.startswith(b"object ") and content[47:48] == b"\n" else b""
    if not _OBJECT_ID.fullmatch(target):
        raise ContextError("the repository has a malformed tag")
    return bytes.fromhex(target.decode("ascii"))


def shown(name: bytes) -> str:
    """A stranger's name for a message: quoted, nothing that moves a cursor."""
    return ascii(name.decode("utf-8", "backslashreplace"))
