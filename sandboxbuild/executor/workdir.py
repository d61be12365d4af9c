"""WORKDIR: the directories that it makes."""

from __future__ import annotations

import os

from sandboxbuild.executor.users import UnknownName, resolve_owner
from sandboxbuild.fstree.actions import FileAction
from sandboxbuild.fstree.paths import encode, rooted
from sandboxbuild.fstree.tree import Tree, resolve
from sandboxbuild.plan.draft import Draft, Owner
from sandboxbuild.plan.operations import WorkdirOp

DIRECTORY_MODE = 0o755


def workdir_actions(op: WorkdirOp, target: Tree, root_fd: int, *, now_ns: int) -> tuple[FileAction, ...]:
    """What makes `op.path` with its parents; () if it is there. Links are followed inside the root.

    The owner is looked up in the rootfs only if something is to be made, and a name that isn't known means root: USER isn't
    checked until something runs (as BuildKit has it). Raises InputError if a file is in the way.
    """
    draft = Draft(target, now_ns)
    path = encode(rooted(op.path))
    if resolve(draft, path).entry is None:
        draft.make_directories(path, DIRECTORY_MODE, _owner(root_fd, op.user))
    else:
        draft.make_directories(path, DIRECTORY_MODE, None)
    return tuple(draft.actions)


def _owner(root_fd: int, user: str) -> Owner | None:
    """A name that isn't known is 0, and a group that isn't known leaves the user's own (BuildKit, readUser)."""
    if not user:
        return None
    name, separator, group = user.partition(":")
    uid, gid = _known(root_fd, name) or (0, 0) if name else (0, 0)
    if separator:
        gid = (_known(root_fd, f":{group}") or (0, gid))[1] if group else 0
    return Owner(uid, gid)


def _known(root_fd: int, text: str) -> tuple[int, int] | None:
    try:
        return resolve_owner(root_fd, text)
    except UnknownName:
        return None


def open_root(root: str) -> int:
    """A descriptor of a rootfs, for lookups in it."""
    return os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
