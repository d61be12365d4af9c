"""Where things lie in a store, who owns them, and how its folders are reached: by descriptor, following no link.

A store is written by the executor and read by the launcher, which may be root: so nothing in it is ever opened through a path
whose components the executor could exchange for links.
"""

from __future__ import annotations

import json
import os
import re
import stat
import threading
from typing import Final

from sandboxbuild.errors import IsolationError, UsageError
from sandboxbuild.store.disk import disk_errors, write_small
from sandboxbuild.system.files import open_beneath

VERSION: Final = 1
VERSION_FILE: Final = "store.json"
FOLDERS: Final = ("blobs/sha256", "blobs/sha512", "layers", "cache/steps", "images", "builds", "tmp", "bundles")
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", re.ASCII)
_MAX_SMALL_BYTES: Final = 1024 * 1024


class Root:
    """An open store: its path, a descriptor of it, and descriptors of its folders, opened once. Thread-safe."""

    __slots__ = ("_folders", "_lock", "_owner", "fd", "path")

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self._folders: dict[str, int] = {}
        self._lock = threading.Lock()
        try:
            self.fd = os.open(self.path, _DIRECTORY & ~os.O_NOFOLLOW)
        except OSError as error:
            raise UsageError(f"the store {self.path} can't be opened: {error.strerror}") from error
        status = os.fstat(self.fd)
        self._owner = (status.st_uid, status.st_gid)

    def folder(self, name: str) -> int:
        """A descriptor of one of FOLDERS, kept open. Raises UsageError if it isn't there, or is a link."""
        with self._lock:
            if name not in self._folders:
                self._folders[name] = self.reopened(name)
            return self._folders[name]

    def reopened(self, name: str) -> int:
        """A descriptor of the caller's own, whose position no other thread moves: for listing."""
        try:
            return open_beneath(self.fd, name, _DIRECTORY)
        except OSError as error:
            raise UsageError(f"the store {self.path} has no folder {name}: {error.strerror}") from error

    def give_to_owner(self, fd: int) -> None:
        """What root makes in somebody else's store is given to them, or they could not use it."""
        if self._owner[0] != 0 and os.geteuid() == 0:
            os.fchown(fd, *self._owner)

    def make_folder(self, parent_fd: int, name: str) -> int:
        """A new folder that only the owner may enter, opened."""
        with disk_errors(self.path):
            os.mkdir(name, 0o700, dir_fd=parent_fd)
        fd = os.open(name, _DIRECTORY, dir_fd=parent_fd)
        self.give_to_owner(fd)
        return fd

    def close(self) -> None:
        with self._lock:
            for fd in self._folders.values():
                os.close(fd)
            self._folders.clear()
            if self.fd >= 0:
                os.close(self.fd)
            self.fd = -1


def open_file(folder_fd: int, name: str) -> int:
    """A regular file for reading. A link, a FIFO, a folder or anything else there counts as absent: FileNotFoundError."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder_fd)
    except OSError as error:
        raise FileNotFoundError(name) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FileNotFoundError(name)
    return fd


def read_small(folder_fd: int, name: str, limit_bytes: int = _MAX_SMALL_BYTES) -> bytes:
    """The content of a small file. Raises FileNotFoundError, also for one that is larger than `limit_bytes`."""
    fd = open_file(folder_fd, name)
    try:
        if os.fstat(fd).st_size > limit_bytes:
            raise FileNotFoundError(name)
        data = b""
        while len(data) <= limit_bytes and (chunk := os.read(fd, limit_bytes + 1 - len(data))):
            data += chunk
        return data
    finally:
        os.close(fd)


def is_plain_name(name: str) -> bool:
    """Whether `name` is safe as a file's name here: no slash, no leading dot, not too long."""
    return _NAME.fullmatch(name) is not None


def make_skeleton(path: str, owner_uid: int, owner_gid: int, ids: str) -> None:
    """Make what is missing of the store at `path`, 0700 and owned by the executor. Idempotent.

    Raises UsageError for a folder that somebody else owns or a store of another version, IsolationError if its layers were
    unpacked under another mapping of ids than `ids`.
    """
    with disk_errors(path):
        os.makedirs(os.path.dirname(os.path.abspath(path)), mode=0o755, exist_ok=True)
        try:
            os.mkdir(path, 0o700)
            os.chown(path, owner_uid, owner_gid)
        except FileExistsError:
            _check_owner(path, owner_uid)
    root = Root(path)
    try:
        with disk_errors(path):
            _make_folders(root)
        _check_version(root, ids)
    finally:
        root.close()


def _make_folders(root: Root) -> None:
    for folder in FOLDERS:
        current = root.fd
        for part in folder.split("/"):
            following = _made(root, current, part)
            if current != root.fd:
                os.close(current)
            current = following
        os.close(current)


def _made(root: Root, parent_fd: int, name: str) -> int:
    try:
        return root.make_folder(parent_fd, name)
    except FileExistsError:
        return os.open(name, _DIRECTORY, dir_fd=parent_fd)


def _check_owner(path: str, owner_uid: int) -> None:
    """An empty folder is taken over by root; one with something in it must be the owner's."""
    status = os.stat(path)
    if status.st_uid == owner_uid:
        return
    if os.geteuid() == 0 and status.st_uid == 0 and not os.listdir(path):
        os.chown(path, owner_uid, -1)
        os.chmod(path, 0o700)
        return
    raise UsageError(
        f"the store {path} belongs to uid {status.st_uid}, and the builds of this command run as uid {owner_uid}",
        hint="give another folder with --store",
    )


def _check_version(root: Root, ids: str) -> None:
    try:
        document = json.loads(read_small(root.fd, VERSION_FILE))
        version, own_ids = int(document["version"]), str(document["ids"])
    except FileNotFoundError:
        _write_version(root, ids)
        return
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{root.path}/{VERSION_FILE} can't be read", hint="remove the store") from error
    if version != VERSION:
        raise UsageError(f"the store {root.path} has the layout {version}, and this program writes {VERSION}")
    if ids and own_ids and ids != own_ids:
        raise IsolationError(
            f"the layers in the store {root.path} were unpacked for other user ids ({own_ids[:80]}) than this build's ({ids})",
            hint="give another folder with --store, or remove this one",
        )
    if ids and not own_ids:
        _write_version(root, ids)


def _write_version(root: Root, ids: str) -> None:
    tmp = root.folder("tmp")
    document = {"version": VERSION, "ids": ids}
    write_small(root, tmp, root.fd, VERSION_FILE, json.dumps(document, sort_keys=True).encode() + b"\n")
