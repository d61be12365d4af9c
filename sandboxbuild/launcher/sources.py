"""Where the build's input is: the context's folder, the Dockerfile, its ignore file. Only the operator's paths are followed.

A context may hold symbolic links that its author aimed at the host, so whatever lies in it is opened below its root
(openat2(2), RESOLVE_IN_ROOT); a path outside the context is the operator's and is opened as it is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import BinaryIO, Final, NamedTuple

from sandboxbuild.dockerfile.ignore import IgnoreRules, parse_ignore
from sandboxbuild.errors import ContextError, InputError, LimitExceeded
from sandboxbuild.gateway.config import FetchGrant
from sandboxbuild.launcher.archives import STDIN, ArchiveStream, is_archive_name, looks_like_archive, open_archive
from sandboxbuild.launcher.layouts import SCHEME as LAYOUT_SCHEME
from sandboxbuild.launcher.layouts import LayoutImage, parse_layout
from sandboxbuild.launcher.planning import DOCKER_IMAGE
from sandboxbuild.launcher.remotes import host_grants, is_remote, remote_context
from sandboxbuild.launcher.settings import BuildSettings
from sandboxbuild.protocol.request import ARCHIVE_CONTEXT
from sandboxbuild.system.contextfile import DOCKERFILE_LIMIT_BYTES, read_dockerfile, read_in_root
from sandboxbuild.system.files import real_directory

_CONTEXT_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", re.ASCII)
UNSUPPORTED_SCHEMES: Final = ("s3://", "gs://", "oci-layout://", "docker-image://")


class Sources(NamedTuple):
    """What the executor gets to build from.

    `context` is as in BuildRequest: local, none, archive or a URL; `folder` the local context's absolute path, else "".
    `dockerfile` is None where it lies in a context that isn't here yet. `dockerfile_name` is shown to the user. `named` are the
    named contexts as the request has them, and `named_folders` (name, absolute path) those of them that are folders here;
    `layouts` are images that have yet to be read. `grants` are what the gateway may fetch for all of it.
    """

    context: str
    folder: str
    dockerfile: bytes | None
    dockerfile_name: str
    ignore_file: bytes | None = None
    note: str = ""
    named: tuple[tuple[str, str], ...] = ()
    named_folders: tuple[tuple[str, str], ...] = ()
    layouts: tuple[tuple[str, LayoutImage], ...] = ()
    archive: ArchiveStream | None = None
    grants: tuple[FetchGrant, ...] = ()


def find_sources(settings: BuildSettings, stdin: BinaryIO, environ: Mapping[str, str] = os.environ) -> Sources:
    """Look at the contexts and read the Dockerfile. Raises ContextError, InputError and UsageError."""
    secret_ids = [secret.secret_id for secret in settings.secrets]
    found = _named_contexts(settings.named_contexts, environ, secret_ids)
    main = _main_sources(settings, stdin, environ)
    return main._replace(
        named=found.named,
        named_folders=found.named_folders,
        layouts=found.layouts,
        grants=(*main.grants, *found.grants, *host_grants(secret_ids)),
    )


def _named_contexts(pairs: Sequence[tuple[str, str]], environ: Mapping[str, str], secret_ids: Sequence[str]) -> Sources:
    """The fields of Sources that named contexts have a part in."""
    named: list[tuple[str, str]] = []
    folders: list[tuple[str, str]] = []
    layouts: list[tuple[str, LayoutImage]] = []
    grants: list[FetchGrant] = []
    for name, value in pairs:
        if value.startswith(LAYOUT_SCHEME):
            layouts.append((name, parse_layout(value)))
            named.append((name, LAYOUT_SCHEME))
        elif value.startswith(DOCKER_IMAGE):
            named.append((name, value))
        elif is_remote(value):
            remote = remote_context(value, environ, secret_ids)
            named.append((name, remote.where))
            grants += remote.grants
        else:
            named.append((name, "local"))
            folders.append((name, _named_folder(name, value)))
    return Sources(
        "", "", None, "", named=tuple(named), named_folders=tuple(folders), layouts=tuple(layouts), grants=tuple(grants)
    )


def _named_folder(name: str, value: str) -> str:
    """A named context's real path. The name is a path component inside the sandbox, so it is checked here."""
    if "://" in value:
        raise ContextError(f"--build-context {name}: {value.partition('://')[0]}:// is not supported")
    if not _CONTEXT_NAME.fullmatch(name):
        raise ContextError(f"--build-context {name!r} is no name for a folder")
    folder = os.path.realpath(value)
    if not os.path.isdir(folder):
        raise ContextError(f"--build-context {name}: {value!r} is not a folder that exists")
    return folder


def _main_sources(settings: BuildSettings, stdin: BinaryIO, environ: Mapping[str, str]) -> Sources:
    if is_archive_name(settings.context):
        return _archive(settings, open_archive(settings.context, stdin))
    if settings.context.startswith(UNSUPPORTED_SCHEMES):
        scheme = settings.context.partition("://")[0]
        raise ContextError(
            f"a context from {scheme}:// is not supported", hint="give a folder, an archive, or an https or git URL"
        )
    if is_remote(settings.context):
        return _remote(settings, stdin, environ)
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
    try:
        return real_directory(root, subpath)
    except OSError as error:
        raise ContextError(f"the context has no folder {subpath!r}: {error.strerror}") from error


def _archive(settings: BuildSettings, stream: ArchiveStream) -> Sources:
    """`-` and tar://: an archive is the context; what is none is a Dockerfile without a context, as docker has it."""
    if settings.dockerfile == "-":
        raise ContextError("standard input can't be the Dockerfile as well as the context")
    if looks_like_archive(stream.first):
        return Sources(ARCHIVE_CONTEXT, "", None, settings.dockerfile or "Dockerfile", archive=stream)
    if settings.context not in STDIN:
        raise ContextError(
            f"the context {settings.context!r} is no tar archive", hint="plain, gzip, bzip2, xz and zstd are read"
        )
    if settings.dockerfile:
        raise ContextError("with - as the context, standard input is the Dockerfile, so --file can't be given")
    text = stream.first + stream.rest.read(DOCKERFILE_LIMIT_BYTES + 1 - len(stream.first))
    if len(text) > DOCKERFILE_LIMIT_BYTES:
        raise LimitExceeded(f"standard input has more than {DOCKERFILE_LIMIT_BYTES} bytes")
    return Sources("none", "", text, "Dockerfile")


def _remote(settings: BuildSettings, stdin: BinaryIO, environ: Mapping[str, str]) -> Sources:
    remote = remote_context(settings.context, environ, [secret.secret_id for secret in settings.secrets])
    if settings.dockerfile == "-":
        return Sources(remote.where, "", _read_stdin(stdin), "Dockerfile", grants=remote.grants)
    return Sources(remote.where, "", None, settings.dockerfile or "Dockerfile", grants=remote.grants)


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


def ignore_rules(sources: Sources) -> IgnoreRules | None:
    """What the ignore file of a local context leaves out; None where there is none. Raises InputError for a malformed one."""
    text = sources.ignore_file
    if text is None and sources.folder:
        root_fd = os.open(sources.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            text = read_in_root(root_fd, ".dockerignore")
        finally:
            os.close(root_fd)
    return None if text is None else parse_ignore(text)


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
    text = read_in_root(root_fd, path)
    if text is None:
        raise InputError(absent, hint="-f names another Dockerfile")
    return _Found(text, path, read_in_root(root_fd, f"{path}.dockerignore"))


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
        return read_dockerfile(fd, path)
    finally:
        os.close(fd)


def _read_stdin(stdin: BinaryIO) -> bytes:
    text = stdin.read(DOCKERFILE_LIMIT_BYTES + 1)
    if len(text) > DOCKERFILE_LIMIT_BYTES:
        raise LimitExceeded(f"standard input has more than {DOCKERFILE_LIMIT_BYTES} bytes")
    return text
