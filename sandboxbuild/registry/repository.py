"""One repository of a registry: the requests of the distribution-spec, each a method that checks what comes back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final, NamedTuple

from sandboxbuild.errors import IntegrityError, RegistryError, SandboxbuildError
from sandboxbuild.oci.descriptor import DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from sandboxbuild.registry import Body, BytesBody, Response, Transport
from sandboxbuild.registry.failures import failure, quoted, read_bounded
from sandboxbuild.registry.retry import Retry, Waiting, retrying
from sandboxbuild.registry.routes import is_digest, is_host, is_repository, is_tag

MANIFEST_LIMIT_BYTES: Final = 4 * 1024 * 1024
_ACCEPT: Final = ", ".join((OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST))
_TAGS_LIMIT_BYTES: Final = 4 * 1024 * 1024


class FetchedManifest(NamedTuple):
    """A manifest or index as its exact bytes; `digest` is computed from them, never believed."""

    content: bytes
    media_type: str
    digest: str


class Upload(NamedTuple):
    """An upload session: where its next request goes, and how many bytes the registry has."""

    location: str
    offset: int = 0
    minimum_chunk_bytes: int = 0


class Repository:
    """Requests to `name` at `host`. Thread-safe if its transport is. Retries what has no body; uploads are retried by push."""

    def __init__(
        self,
        transport: Transport,
        host: str,
        name: str,
        *,
        retry: Retry = Retry(),  # noqa: B008 - a frozen value
        waiting: Waiting = Waiting(),  # noqa: B008
        timeout_s: float = 60.0,
    ) -> None:
        if not is_host(host) or not is_repository(name):
            raise RegistryError(f"not a repository: {quoted(host)}/{quoted(name)}")
        self.host = host
        self.name = name
        self.retry = retry
        self.waiting = waiting
        self._transport = transport
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"Repository({self.host}/{self.name})"

    def get_manifest(self, reference: str) -> FetchedManifest:
        """The manifest or index at a tag or digest. Raises RegistryError, IntegrityError when a digest isn't what was asked."""
        return retrying(lambda: self._get_manifest(reference), self.retry, self.waiting)

    def _get_manifest(self, reference: str) -> FetchedManifest:
        what = f"pull of {self._named(reference)}"
        response = self._send("GET", f"manifests/{_checked(reference)}", {"Accept": _ACCEPT})
        if response.status != 200:
            raise failure(response, what)
        try:
            content = read_bounded(response, MANIFEST_LIMIT_BYTES)
        finally:
            response.close()
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        if is_digest(reference) and digest != reference:
            raise IntegrityError(f"{what}: the registry sent {digest}")
        return FetchedManifest(content, _media_type(response), digest)

    def has_manifest(self, reference: str) -> bool:
        response = self._head(f"manifests/{_checked(reference)}", {"Accept": _ACCEPT})
        return response is not None

    def blob_exists(self, digest: str, size_bytes: int | None = None) -> bool:
        """Whether the registry has the blob; one of another length than `size_bytes` doesn't count."""
        headers = self._head(f"blobs/{_checked(digest)}", {})
        if headers is None:
            return False
        length = headers.get("content-length", "")
        return size_bytes is None or not length.isdigit() or int(length) == size_bytes

    def _head(self, path: str, headers: Mapping[str, str]) -> Mapping[str, str] | None:
        def ask() -> Mapping[str, str] | None:
            response = self._send("HEAD", path, headers)
            if response.status == 404:
                response.close()
                return None
            if response.status != 200:
                raise failure(response, f"look-up in {self.host}/{self.name}")
            response.close()
            return response.headers

        return retrying(ask, self.retry, self.waiting)

    def open_blob(self, digest: str, offset: int = 0) -> Response:
        """The blob's bytes from `offset`, neither retried nor verified: pull.stream_blob does both."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        response = self._send("GET", f"blobs/{_checked(digest)}", headers)
        if response.status == (206 if offset else 200):
            if offset:
                _check_range(response, offset)
            return response
        if offset and response.status == 200:
            return _skipped(response, offset)
        raise failure(response, f"pull of {self._named(digest)}")

    def start_upload(self, digest: str = "", mount_from: str = "") -> Upload | None:
        """Begin an upload; with `mount_from`, ask for the blob from that repository first: None means that it is mounted."""
        query = f"?mount={digest}&from={mount_from}" if mount_from else ""

        def ask() -> Upload | None:
            response = self._send("POST", f"blobs/uploads/{query}", {})
            if mount_from and response.status == 201:
                response.close()
                return None
            return self._session(response, 202, 0)

        return retrying(ask, self.retry, self.waiting)

    def upload_status(self, upload: Upload) -> Upload:
        """How far an interrupted upload came. Raises RegistryError when the registry has forgotten it."""

        def ask() -> Upload:
            response = self._transport.request("GET", self.host, upload.location, {}, None, timeout_s=self._timeout_s)
            return self._session(response, 204, None)

        return retrying(ask, self.retry, self.waiting)

    def send_chunk(self, upload: Upload, chunk: Body) -> Upload:
        """PATCH: append `chunk` at the upload's offset. Not retried."""
        end = upload.offset + chunk.size_bytes
        headers = {"Content-Type": "application/octet-stream", "Content-Range": f"{upload.offset}-{end - 1}"}
        response = self._transport.request("PATCH", self.host, upload.location, headers, chunk, timeout_s=self._timeout_s)
        return self._session(response, 202, end)

    def finish_upload(self, upload: Upload, digest: str, body: Body | None) -> None:
        """PUT: end the upload with all or none of the bytes. Not retried."""
        joint = "&" if "?" in upload.location else "?"
        location = f"{upload.location}{joint}digest={_checked(digest)}"
        headers = {"Content-Type": "application/octet-stream"}
        response = self._transport.request("PUT", self.host, location, headers, body, timeout_s=self._timeout_s)
        if response.status not in (201, 204):
            raise failure(response, f"push of {self._named(digest)}")
        response.close()

    def put_manifest(self, reference: str, media_type: str, content: bytes) -> str:
        """Put a manifest or index at a tag or digest; gives its digest. Retried: the same bytes again do no harm."""
        digest = "sha256:" + hashlib.sha256(content).hexdigest()

        def ask() -> str:
            headers = {"Content-Type": media_type}
            response = self._send("PUT", f"manifests/{_checked(reference)}", headers, BytesBody(content))
            if response.status not in (200, 201, 202):
                raise failure(response, f"push of {self._named(reference)}")
            response.close()
            said = response.headers.get("docker-content-digest", digest)
            if said != digest:
                raise IntegrityError(f"push of {self._named(reference)}: the registry took {quoted(said)} for {digest}")
            return digest

        return retrying(ask, self.retry, self.waiting)

    def tags(self) -> bytes:
        """The tag list as the registry's JSON document."""

        def ask() -> bytes:
            response = self._send("GET", "tags/list", {})
            if response.status != 200:
                raise failure(response, f"list of tags of {self.host}/{self.name}")
            try:
                return read_bounded(response, _TAGS_LIMIT_BYTES)
            finally:
                response.close()

        return retrying(ask, self.retry, self.waiting)

    def _session(self, response: Response, expected: int, offset: int | None) -> Upload:
        what = f"push to {self.host}/{self.name}"
        if response.status != expected:
            raise failure(response, what)
        response.close()
        location = response.headers.get("location", "")
        if not location:
            raise RegistryError(f"{what}: the registry names no place for the upload")
        minimum = response.headers.get("oci-chunk-min-length", "0")
        seen = _received(response.headers.get("range", "")) if offset is None else offset
        return Upload(location, seen, int(minimum) if minimum.isdigit() and len(minimum) < 12 else 0)

    def _send(self, method: str, path: str, headers: Mapping[str, str], body: Body | None = None) -> Response:
        return self._transport.request(method, self.host, f"/v2/{self.name}/{path}", headers, body, timeout_s=self._timeout_s)

    def _named(self, reference: str) -> str:
        return f"{self.host}/{self.name}{'@' if ':' in reference else ':'}{quoted(reference)}"


def _checked(reference: str) -> str:
    if not is_digest(reference) and not is_tag(reference):
        raise RegistryError(f"neither a tag nor a digest: {quoted(reference)}")
    return reference


def _media_type(response: Response) -> str:
    return response.headers.get("content-type", "").split(";")[0].strip().lower()


def _received(value: str) -> int:
    """Bytes that a Range header of an upload ("0-1023") stands for; 0 where there is none, or "0-0", which is ambiguous."""
    start, dash, end = value.removeprefix("bytes=").partition("-")
    if start != "0" or not dash or not end.isdigit() or len(end) > 18 or end == "0":
        return 0
    return int(end) + 1


def _check_range(response: Response, offset: int) -> None:
    if not response.headers.get("content-range", "").startswith(f"bytes {offset}-"):
        response.close()
        raise RegistryError("the registry sent another part of a blob than was asked for")


def _skipped(response: Response, offset: int) -> Response:
    """The rest of a blob whose registry ignores Range."""
    try:
        while offset:
            chunk = response.read(min(offset, 1024 * 1024))
            if not chunk:
                raise RegistryError("the registry's blob has become shorter")
            offset -= len(chunk)
    except SandboxbuildError:
        response.close()
        raise
    return response
