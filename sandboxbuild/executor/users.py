"""Users and groups as the image's own /etc/passwd and /etc/group have them: read as data, never through the system's NSS.

The rules are Docker's (moby/sys/user GetExecUser for USER) and BuildKit's (llb.WithUser for --chown and WORKDIR).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypeVar

from sandboxbuild.errors import InputError, LimitExceeded
from sandboxbuild.system.files import link_path, open_in_root, read_limited

MAX_FILE_BYTES: Final = 16 << 20
MAX_GROUPS: Final = 65_536  # NGROUPS_MAX
MAX_ID: Final = (1 << 31) - 1
_MAX_DIGITS: Final = 12


class UnknownName(InputError):
    """A user or group name that the image's files don't have."""


class ResolvedUser(NamedTuple):
    """Who a step runs as; `groups` are the supplementary ones, in the order of /etc/group."""

    uid: int
    gid: int
    home: str
    groups: tuple[int, ...]


class _User(NamedTuple):
    name: str
    uid: int
    gid: int
    home: str


class _Group(NamedTuple):
    name: str
    gid: int
    members: str


_Item = TypeVar("_Item")


def resolve_user(root_fd: int, text: str) -> ResolvedUser:
    """Who USER `text` means in the rootfs: names or numbers, `user`, `user:group`, "" for root.

    A number that passwd doesn't have is taken as it is, with group 0 and home "/". Supplementary groups come with a user
    alone; an explicit group is the only one. Raises UnknownName; InputError for ids that don't exist; LimitExceeded.
    """
    name, _, group = text.partition(":")
    wanted = _number(name or "0")
    user = _first(_users(root_fd), _is_named(name) if wanted is None else _has_uid(wanted))
    if user is None and wanted is None:
        raise UnknownName(f"the image has no user {name!r}", hint="its /etc/passwd doesn't name it")
    uid = _in_range(user.uid if user is not None else wanted or 0, text)
    home = _home(root_fd, uid)
    if group:
        return ResolvedUser(uid, _group_id(root_fd, group), home, ())
    if user is None:
        return ResolvedUser(uid, 0, home, ())
    return ResolvedUser(uid, _in_range(user.gid, text), home, _groups_of(root_fd, user.name))


def resolve_owner(root_fd: int, text: str) -> tuple[int, int]:
    """The ids of --chown `text`: a name alone brings its primary group, a number alone is both ids, known or not.

    A colon without a group after it means group 0. `root` is 0 whatever the files say. Raises UnknownName; InputError for
    ids that don't exist; LimitExceeded.
    """
    name, separator, group = text.partition(":")
    number = 0 if name == "root" else _number(name)
    if number is not None:
        uid = gid = _in_range(number, text)
    elif name or not separator:
        user = _first(_users(root_fd), _is_named(name))
        if user is None:
            raise UnknownName(f"the image has no user {name!r}", hint="its /etc/passwd doesn't name it")
        uid, gid = _in_range(user.uid, text), _in_range(user.gid, text)
    else:
        uid = gid = 0
    if group:
        gid = _group_id(root_fd, group)
    return uid, 0 if separator and not group else gid


def _group_id(root_fd: int, text: str) -> int:
    number = 0 if text == "root" else _number(text)
    if number is not None:
        return _in_range(number, text)
    group = _first(_groups(root_fd), lambda item: item.name == text)
    if group is None:
        raise UnknownName(f"the image has no group {text!r}", hint="its /etc/group doesn't name it")
    return _in_range(group.gid, text)


def _home(root_fd: int, uid: int) -> str:
    """runc looks HOME up by the id, so the first entry with it counts, whatever name USER has; an empty one is empty."""
    first = _first(_users(root_fd), _has_uid(uid))
    return first.home if first is not None else "/"


def _groups_of(root_fd: int, name: str) -> tuple[int, ...]:
    found = []
    for group in _groups(root_fd):
        if name in group.members.split(","):
            found.append(_in_range(group.gid, group.name))
            if len(found) > MAX_GROUPS:
                raise LimitExceeded(f"the image's /etc/group has {name!r} in more than {MAX_GROUPS} groups")
    return tuple(found)


def _is_named(name: str) -> Callable[[_User], bool]:
    return lambda user: user.name == name


def _has_uid(uid: int) -> Callable[[_User], bool]:
    return lambda user: user.uid == uid


def _first(items: Iterator[_Item], wanted: Callable[[_Item], bool]) -> _Item | None:
    return next((item for item in items if wanted(item)), None)


def _users(root_fd: int) -> Iterator[_User]:
    for fields in _lines(root_fd, b"etc/passwd"):
        if len(fields) >= 4:
            uid, gid = _number(fields[2]), _number(fields[3])
            if uid is not None and gid is not None:
                yield _User(fields[0], uid, gid, fields[5] if len(fields) > 5 else "")


def _groups(root_fd: int) -> Iterator[_Group]:
    for fields in _lines(root_fd, b"etc/group"):
        if len(fields) >= 3:
            gid = _number(fields[2])
            if gid is not None:
                yield _Group(fields[0], gid, fields[3] if len(fields) > 3 else "")


def _lines(root_fd: int, path: bytes) -> Iterator[list[str]]:
    """The fields of each line that isn't blank or a comment. What isn't a regular file counts as absent."""
    for line in _read(root_fd, path).split(b"\n"):
        text = line.strip()
        if text and not text.startswith(b"#"):
            yield text.decode("utf-8", "surrogateescape").split(":")


def _read(root_fd: int, path: bytes) -> bytes:
    """Looked at before it is opened: opening a FIFO waits and opening a device may do anything."""
    try:
        found = open_in_root(root_fd, path, os.O_PATH)
    except OSError:
        return b""
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            return b""
        fd = os.open(link_path(found), os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(found)
    try:
        return read_limited(fd, MAX_FILE_BYTES)
    except OSError as error:
        raise LimitExceeded(f"the image's /{path.decode()} has more than {MAX_FILE_BYTES} bytes") from error
    finally:
        os.close(fd)


def _number(text: str) -> int | None:
    digits = text[1:] if text[:1] in ("-", "+") else text
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) <= _MAX_DIGITS else None


def _in_range(number: int, text: str) -> int:
    if not 0 <= number <= MAX_ID:
        raise InputError(f"{text!r} names the id {number}, which can't be used", hint=f"ids lie between 0 and {MAX_ID}")
    return number
