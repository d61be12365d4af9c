"""Where the build's input is: the context's folder, the Dockerfile, its ignore file. Only the operator's paths are followed.

A context may hold symbolic links that its author aimed at the host, so whatever lies in it is opened below its root
(openat2(2), RESOLVE_IN_ROOT); a path outside the context is the operator's and is opened as it is.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import BinaryIO, Final, NamedTuple

from sandboxbuild.errors import ContextError, InputError, LimitExceeded
from sandboxbuild.launcher.settings import BuildSettings
from sandboxbuild.system.files import open_in_root, read_limited

DOCKERFILE_LIMIT_BYTES: Final = 1024 * 1024
_CONTEXT_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", re.ASCII)
REMOTE_SCHEMES: Final = ("http://", "https://", "git://", "git@", "ssh://", "github.com/")
UNSUPPORTED_SCHEMES: Final = ("s3://", "gs://", "tar://", "oci-layout://", "docker-image://")


class Sources(NamedTuple):
    """What the executor gets to build from.

    `context` is as in BuildRequest: local, none or a URL; `folder` the local context's absolute path, else "".
    `dockerfile` is None where it lies in a context that isn't here yet. `dockerfile_name` is shown to the user. `named` are the
    named contexts as the request has them, and `named_folders` (name, absolute path) those of them that are folders here.
    """

    context: str
    folder: str
    dockerfile: bytes | None
    dockerfile_name: str
    ignore_file: bytes | None = None
    note: str = ""
    named: tuple[tuple[str, str], ...] = ()
    named_folders: tuple[tuple[str, str], ...] = ()


def find_sources(settings: BuildSettings, stdin: BinaryIO) -> Sources:
    """Look at the contexts and read the Dockerfile. Raises ContextError and InputError."""
    named, folders = _named_contexts(settings.named_contexts)
    return _main_sources(settings, stdin)._replace(named=named, named_folders=folders)


def _named_contexts(pairs: tuple[tuple[str, str], ...]) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
    """(as the request has them, the local folders). A name is a path component inside the sandbox, so it is checked here."""
    named, folders = [], []
    for name, value in pairs:
        if "://" in value or value.startswith("git@"):
            named.append((name, value))
            continue
        if not _CONTEXT_NAME.fullmatch(name):
            raise ContextError(f"--build-context {name!r} is no name for a folder")
        folder = os.path.realpath(value)
        if not os.path.isdir(folder):
            raise ContextError(f"--build-context {name}: {value!r} is not a folder that exists")
        named.append((name, "local"))
        folders.append((name, folder))
    return tuple(named), tuple(folders)


def _main_sources(settings: BuildSettings, stdin: BinaryIO) -> Sources:
    if settings.context == "-":
        return _dockerfile_alone(settings, stdin)
    if settings.context.startswith(UNSUPPORTED_SCHEMES):
        scheme = settings.context.partition("://")[0]
        raise ContextError(f"a context from {scheme}:// is not supported", hint="give a folder, or an https or git URL")
    if settings.context.startswith(REMOTE_SCHEMES):
        return _remote(settings, stdin)
    folder = _folder(settings)
    found = _find_dockerfile(settings.dockerfile, folder, stdin)
    return Sources("local", folder, found.text, found.name, found.ignore_file, found.note)


def _folder(settings: BuildSettings) -> str:
    """The local context's real path; a sub-path is resolved inside of it."""
    root = os.path.realpath(settings.context)
    if not os.path.isdir(root):
        raise ContextError(f"the context {settings.context!r} is not a folder that exists")
    subpath = settings.context_subpath
    if not subpath:
        return root
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        inner_fd = open_in_root(root_fd, subpath, os.O_PATH | os.O_DIRECTORY)
    except OSError as error:
        raise ContextError(f"the context has no folder {subpath!r}: {error.strerror}") from error
    finally:
        os.close(root_fd)
    try:
        return os.readlink(f"/proc/self/fd/{inner_fd}")
    finally:
        os.close(inner_fd)


def _dockerfile_alone(settings: BuildSettings, stdin: BinaryIO) -> Sources:
    """`run -`: standard input is a Dockerfile, and there is no context."""
    if settings.dockerfile:
        raise ContextError("with - as the context, standard input is the Dockerfile, so --file can't be given")
    text = _read_stdin(stdin)
    if text[:2] == b"\x1f\x8b" or text[257:262] == b"ustar" or text[:4] == b"\x28\xb5\x2f\xfd":
        raise ContextError("a context as an archive on standard input is not supported", hint="unpack it, and give the folder")
    return Sources("none", "", text, "Dockerfile")


def _remote(settings: BuildSettings, stdin: BinaryIO) -> Sources:
    if settings.context_subpath:
        raise ContextError("--context-sub-path is for folders", hint="write URL#REF:FOLDER for git")
    if settings.dockerfile == "-":
        return Sources(settings.context, "", _read_stdin(stdin), "Dockerfile")
    return Sources(settings.context, "", None, settings.dockerfile or "Dockerfile")


class _Found(NamedTuple):
    text: bytes
    name: str
    ignore_file: bytes | None
    note: str = ""


def _find_dockerfile(path: str, folder: str, stdin: BinaryIO) -> _Found:
    """The Dockerfile as given, else in the context; `note` says which where that could surprise."""
    if path == "-":
        return _Found(_read_stdin(stdin), "Dockerfile", None)
    root_fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not path:
            return _in_context(root_fd, "Dockerfile", f"there is no Dockerfile in {folder}")
        if os.path.lexists(path):
            inside = path_inside(path, folder)
            return _Found(*_outside(path)) if inside is None else _in_context(root_fd, inside, f"{path!r} can't be read")
        found = _in_context(root_fd, path, f"there is no Dockerfile {path!r}, neither here nor in the context")
        return found._replace(note=f"using {path} of the context")
    finally:
        os.close(root_fd)


def path_inside(path: str, folder: str) -> str | None:
    """`path` relative to `folder` if it lies in it by its spelling or by its parent's real place; else None."""
    absolute = os.path.abspath(path)
    real = os.path.join(os.path.realpath(os.path.dirname(absolute)), os.path.basename(absolute))
    for candidate in (absolute, real):
        relative = os.path.relpath(candidate, folder)
        if relative != ".." and not relative.startswith("../"):
            return relative
    return None


def _in_context(root_fd: int, path: str, absent: str) -> _Found:
    text = _read_below(root_fd, path)
    if text is None:
        raise InputError(absent, hint="-f names another Dockerfile")
    return _Found(text, path, _read_below(root_fd, f"{path}.dockerignore"))


def _read_below(root_fd: int, path: str) -> bytes | None:
    """A regular file of the context, or None. Links lead nowhere outside; a FIFO or device is refused, not waited for."""
    try:
        fd = open_in_root(root_fd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise InputError(f"{path!r} in the context can't be opened: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InputError(f"{path!r} in the context is not a regular file")
        return _read_bounded(fd, path)
    finally:
        os.close(fd)


def _outside(path: str) -> tuple[bytes, str, bytes | None]:
    """A Dockerfile at a path of the operator's: (text, name, ignore file beside it)."""
    try:
        text = _read_path(path)
    except OSError as error:
        raise InputError(f"the Dockerfile {path!r} can't be read: {error.strerror}") from error
    try:
        ignore_file = _read_path(f"{path}.dockerignore")
    except OSError:
        ignore_file = None
    return text, os.path.basename(path), ignore_file


def _read_path(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        return _read_bounded(fd, path)
    finally:
        os.close(fd)


def _read_bounded(fd: int, path: str) -> bytes:
    try:
        return read_limited(fd, DOCKERFILE_LIMIT_BYTES)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise LimitExceeded(f"{path!r} has more than {DOCKERFILE_LIMIT_BYTES} bytes") from error
        raise


def _read_stdin(stdin: BinaryIO) -> bytes:
    text = stdin.read(DOCKERFILE_LIMIT_BYTES + 1)
    if len(text) > DOCKERFILE_LIMIT_BYTES:
        raise LimitExceeded(f"standard input has more than {DOCKERFILE_LIMIT_BYTES} bytes")
    return text
