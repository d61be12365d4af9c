"""What ADD fetches: files of URLs and git repositories, through the gateway, into the build's scratch folder; each once."""

from __future__ import annotations

import hashlib
import os
import threading
from typing import Final

from sandboxbuild.errors import ContextError, DockerfileError, LimitExceeded
from sandboxbuild.executor.channel import Vertex
from sandboxbuild.executor.contexts import clone_source
from sandboxbuild.oci.digest import parse_digest
from sandboxbuild.plan.copying import URL_MODE, url_file_name
from sandboxbuild.plan.operations import GitSource, UrlSource
from sandboxbuild.registry import Response
from sandboxbuild.registry.uplink import Uplink, fetch_url
from sandboxbuild.system.files import write_all

READ_BYTES: Final = 1024 * 1024
FILE_LIMIT_BYTES: Final = 32 * 1024 * 1024 * 1024


class RemoteFiles:
    """Fetches once what several steps name. Thread-safe."""

    def __init__(self, uplink: Uplink, scratch: str) -> None:
        self._uplink = uplink
        self._scratch = scratch
        self._fetched: dict[UrlSource | GitSource, str] = {}
        self._lock = threading.Lock()

    def directory(self, source: UrlSource | GitSource, vertex: Vertex) -> str:
        """A directory that holds what `source` names: for a URL one file, mode 0600; for git the checkout.

        Raises ContextError when there is no such thing, DockerfileError for a checksum that differs.
        """
        with self._lock:
            if source not in self._fetched:
                self._fetched[source] = (
                    self._clone(source, vertex) if isinstance(source, GitSource) else self._fetch(source, vertex)
                )
            return self._fetched[source]

    def _clone(self, source: GitSource, vertex: Vertex) -> str:
        return clone_source(source, self._uplink, os.path.join(self._scratch, f"git-{len(self._fetched)}"), vertex)

    def _fetch(self, source: UrlSource, vertex: Vertex) -> str:
        folder = os.path.join(self._scratch, f"url-{len(self._fetched)}")
        os.mkdir(folder, 0o700)
        response = fetch_url(self._uplink, source.url, {})
        try:
            if response.status != 200:
                raise ContextError(f"{source.url[:200]} can't be fetched: HTTP status {response.status}")
            path = os.path.join(folder, url_file_name(source.url))
            digest = _save(response, path, vertex)
            _check(source, digest)
            seconds = last_modified_s(response.headers.get("last-modified", ""))
            os.utime(path, (seconds or 0, seconds or 0))  # as BuildKit: without the header, the epoch
        finally:
            response.close()
        return folder


def last_modified_s(header: str) -> int | None:
    """The time of a Last-Modified header in seconds since the epoch, None if it tells none."""
    from email.utils import parsedate_to_datetime  # costs more than a build without ADD of a URL should pay

    try:
        return max(0, int(parsedate_to_datetime(header).timestamp()))
    except (TypeError, ValueError, OverflowError):
        return None


def _save(response: Response, path: str, vertex: Vertex) -> dict[str, str]:
    """Write the body to a new file; gives its digests by algorithm."""
    hashes = {name: hashlib.new(name) for name in ("sha256", "sha512")}
    total = int(response.headers.get("content-length", "0") or 0)
    done = 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, URL_MODE)
    try:
        while chunk := response.read(READ_BYTES):
            done += len(chunk)
            if done > FILE_LIMIT_BYTES:
                raise LimitExceeded(f"a URL gives more than {FILE_LIMIT_BYTES} bytes")
            for hashing in hashes.values():
                hashing.update(chunk)
            write_all(descriptor, chunk)
            vertex.progress("url", "pull", done, total)
    finally:
        os.close(descriptor)
    return {name: hashing.hexdigest() for name, hashing in hashes.items()}


def _check(source: UrlSource, digests: dict[str, str]) -> None:
    if not source.checksum:
        return
    algorithm, _, wanted = parse_digest(source.checksum).partition(":")
    if digests.get(algorithm) != wanted:
        found = f"{algorithm}:{digests.get(algorithm, '')}"
        raise DockerfileError(f"{source.url[:200]} has the digest {found}, and --checksum wants {source.checksum}")
