"""The build's contexts as folders: mounted by the launcher, or made here, once, of an archive, a URL or a git repository."""

from __future__ import annotations

import os
import threading
from typing import Final, NamedTuple

from sandboxbuild.contexts import Fetch
from sandboxbuild.errors import ContextError, InputError
from sandboxbuild.executor.channel import EventChannel, Vertex
from sandboxbuild.plan.operations import GitSource
from sandboxbuild.protocol.request import ARCHIVE_CONTEXT, ARCHIVE_NAME, CONTEXTS_PATH, GIT_PREFIX, BuildRequest
from sandboxbuild.registry import Body, Response
from sandboxbuild.registry.uplink import Uplink, fetch_url
from sandboxbuild.system.contextfile import read_in_root
from sandboxbuild.system.files import real_directory

IMAGE_OWNER: Final = (0, 0)
KEEP_GIT_ARG: Final = "BUILDKIT_CONTEXT_KEEP_GIT_DIR"
_SHOWN: Final = 200


class DockerfileText(NamedTuple):
    """A Dockerfile and the `<Dockerfile>.dockerignore` beside it, None if there is none."""

    text: bytes
    ignore_file: bytes | None


class Contexts:
    """The contexts of one build; thread-safe. `folder` is the build's own in the store, `scratch` gone with the build."""

    def __init__(self, request: BuildRequest, uplink: Uplink, channel: EventChannel, *, folder: str, scratch: str) -> None:
        self._request = request
        self._uplink = uplink
        self._channel = channel
        self._archive = os.path.join(folder, ARCHIVE_NAME)
        self._scratch = scratch
        self._named = dict(request.named_contexts)
        self._found: dict[str, str] = {}
        self._lock = threading.Lock()

    def folder(self, name: str = "") -> str:
        """The folder of the context `name`, "" for the build's own. Raises ContextError where there is none."""
        with self._lock:
            if name not in self._found:
                self._found[name] = self._find(name)
            return self._found[name]

    def dockerfile(self) -> DockerfileText:
        """The Dockerfile that the launcher sent, or that lies in the context. Raises InputError where there is none."""
        request = self._request
        if request.dockerfile is not None:
            return DockerfileText(request.dockerfile, request.ignore_file)
        path = request.dockerfile_path
        root = os.open(self.folder(), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            text = read_in_root(root, path)
            if text is None:
                raise InputError(f"there is no Dockerfile {path[:_SHOWN]!r} in the context", hint="-f names another one")
            return DockerfileText(text, read_in_root(root, f"{path}.dockerignore"))
        finally:
            os.close(root)

    def _find(self, name: str) -> str:
        where = self._named.get(name, "") if name else self._request.context
        if where in ("", "none"):
            raise ContextError(
                f"there is no build context{f' named {name[:_SHOWN]}' if name else ''}", hint="give a directory as context"
            )
        if where == "local":
            return os.path.join(CONTEXTS_PATH, "named", name) if name else os.path.join(CONTEXTS_PATH, "default")
        target = os.path.join(self._scratch, f"context-{len(self._found)}-{os.urandom(4).hex()}")
        shown = where.removeprefix(GIT_PREFIX)[:_SHOWN] if where != ARCHIVE_CONTEXT else "the archive"
        with self._channel.vertex("internal", f"load build context {name or 'from'} {shown}") as vertex:
            made = self._make(where, target, vertex)
        return made if name else _below(made, self._request.context_subpath)

    def _make(self, where: str, target: str, vertex: Vertex) -> str:
        """Make the folder `target`; gives the part of it that is the context."""
        if where == ARCHIVE_CONTEXT:
            from sandboxbuild.contexts.tarball import unpack_context

            descriptor = os.open(self._archive, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                unpack_context(descriptor, target, "the context")
            finally:
                os.close(descriptor)
            return target
        if where.startswith(GIT_PREFIX):
            from sandboxbuild.dockerfile.instructions.remotes import git_source

            keep = dict(self._request.build_args).get(KEEP_GIT_ARG, "").lower() in ("1", "true")
            return clone_source(git_source(where.removeprefix(GIT_PREFIX), "", keep or None), self._uplink, target, vertex)
        from sandboxbuild.contexts.web import fetch_context

        fetch_context(where, fetcher(self._uplink), target, lambda done, total: vertex.progress("context", "pull", done, total))
        return target


def clone_source(source: GitSource, uplink: Uplink, target: str, vertex: Vertex) -> str:
    """Check a repository out into the new folder `target`; gives the sub-directory that was asked for."""
    from sandboxbuild.contexts.git import clone

    cloned = clone(source, fetcher(uplink), target, owner=IMAGE_OWNER)
    if cloned.skipped:
        links = ", ".join(cloned.skipped[:3]) + ("..." if len(cloned.skipped) > 3 else "")
        vertex.warn(f"{source.url[:_SHOWN]} has submodules that are not fetched: {links[:_SHOWN]}")
    return cloned.path


def fetcher(uplink: Uplink) -> Fetch:
    """contexts.Fetch over the uplink."""

    def fetch(url: str, headers: dict[str, str], body: Body | None = None) -> Response:
        return fetch_url(uplink, url, headers, body=body)

    return fetch


def _below(folder: str, subpath: str) -> str:
    """The real path of a folder in a context; links that lead out of it lead nowhere."""
    if not subpath.strip("/."):
        return folder
    try:
        return real_directory(folder, subpath)
    except OSError as error:
        raise ContextError(f"the context has no folder {subpath[:_SHOWN]!r}: {error.strerror}") from error
