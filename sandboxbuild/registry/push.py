"""Push: blobs while the build still goes on, manifests last. What a registry has already is mounted or left alone."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from sandboxbuild.errors import RegistryError
from sandboxbuild.oci.descriptor import Descriptor
from sandboxbuild.registry import CHUNK_BYTES, Body
from sandboxbuild.registry.failures import TransientError
from sandboxbuild.registry.repository import Repository, Upload

FALLBACK_CHUNK_BYTES: Final = 10 * CHUNK_BYTES  # for registries, or proxies before them, that refuse a whole blob with 413
PARALLEL_BLOBS: Final = 3
_RESUMES_LIMIT: Final = 50


class Source(Protocol):
    """An open blob. read() gives at most `count` bytes, b"" at the end; close() is idempotent."""

    def read(self, count: int, /) -> bytes: ...

    def close(self) -> None: ...


class PushBlob(NamedTuple):
    """A blob to push. `open_at(offset)` opens its bytes anew. `mount_from` names repositories of the same registry that may
    have it already, by (host, repository).
    """

    descriptor: Descriptor
    open_at: Callable[[int], Source]
    mount_from: tuple[tuple[str, str], ...] = ()


class Document(NamedTuple):
    """A manifest or an index as bytes."""

    media_type: str
    content: bytes


class Destination(NamedTuple):
    """A repository and the tags to set there; with no tag the root is pushed by its digest."""

    repository: Repository
    tags: tuple[str, ...] = ()


class Pushed(NamedTuple):
    """One name of what was pushed. Bytes and mounts count for the destination's repository."""

    reference: str
    digest: str
    uploaded_bytes: int
    mounted_blobs: int


Progress = Callable[[str, int, int], object]  # (digest, current bytes, total bytes); called from several threads


def no_progress(_digest: str, _current: int, _total: int) -> None:
    """The Progress of who doesn't want to know."""


class PushSession:
    """Uploads blobs on threads of its own as they are given, then the manifests.

    Give each blob once it is final by enqueue(); call finish() when all are given, or abort(). The first error stops the rest
    and is raised by finish(). enqueue() is thread-safe and never waits.
    """

    def __init__(
        self, destinations: Sequence[Destination], *, parallel: int = PARALLEL_BLOBS, on_progress: Progress = no_progress
    ) -> None:
        self._destinations = tuple(destinations)
        self._progress = on_progress
        self._jobs: queue.SimpleQueue[PushBlob | None] = queue.SimpleQueue()
        self._parallel = parallel
        self._threads: list[threading.Thread] = []
        self._seen: set[str] = set()
        self._counts = {_key(d.repository): [0, 0] for d in destinations}
        self._error: BaseException | None = None
        self._lock = threading.Lock()

    def enqueue(self, blob: PushBlob) -> None:
        """Push `blob` to all destinations; a digest that was given before is ignored."""
        with self._lock:
            if blob.descriptor.digest in self._seen:
                return
            self._seen.add(blob.descriptor.digest)
            if len(self._threads) < self._parallel:
                thread = threading.Thread(target=self._work, name="push", daemon=True)
                self._threads.append(thread)
                thread.start()
        self._jobs.put(blob)

    def finish(self, root: Document, children: Sequence[Document] = ()) -> tuple[Pushed, ...]:
        """Wait for the blobs, then put `children` (the manifests of an index) by digest and `root` by each tag.

        Raises RegistryError, PolicyError, or what else stopped a blob.
        """
        self._drain()
        if self._error is not None:
            raise self._error
        return tuple(pushed for destination in self._destinations for pushed in self._put(destination, root, children))

    def abort(self) -> None:
        """Start no further blob, and wait for those under way. Idempotent."""
        with self._lock:
            self._error = self._error or RegistryError("the push was given up")
        self._drain()

    def _drain(self) -> None:
        threads, self._threads = self._threads, []
        for _ in threads:
            self._jobs.put(None)
        for thread in threads:
            thread.join()

    def _work(self) -> None:
        while (blob := self._jobs.get()) is not None:
            if self._error is not None:
                continue
            try:
                self._push(blob)
            except BaseException as error:  # raised again by finish(), on the caller's thread
                with self._lock:
                    self._error = self._error or error

    def _push(self, blob: PushBlob) -> None:
        """To each repository in turn, so that a second one of the same registry can mount from the first."""
        origins = blob.mount_from
        for repository in _repositories(self._destinations):
            sent, mounted = push_blob(repository, blob._replace(mount_from=origins), self._progress)
            with self._lock:
                self._counts[_key(repository)][0] += sent
                self._counts[_key(repository)][1] += mounted
            origins = ((repository.host, repository.name), *origins)

    def _put(self, destination: Destination, root: Document, children: Sequence[Document]) -> list[Pushed]:
        repository = destination.repository
        for child in children:
            repository.put_manifest(digest_of(child), child.media_type, child.content)
        digest = digest_of(root)
        names = [(tag, f":{tag}") for tag in destination.tags] or [(digest, f"@{digest}")]
        sent, mounted = self._counts[_key(repository)]
        pushed = []
        for reference, suffix in names:
            repository.put_manifest(reference, root.media_type, root.content)
            pushed.append(Pushed(f"{repository.host}/{repository.name}{suffix}", digest, sent, mounted))
        return pushed


def push_image(
    destinations: Sequence[Destination],
    blobs: Sequence[PushBlob],
    root: Document,
    children: Sequence[Document] = (),
    *,
    on_progress: Progress = no_progress,
) -> tuple[Pushed, ...]:
    """Push an image that is complete. Raises RegistryError."""
    session = PushSession(destinations, on_progress=on_progress)
    for blob in blobs:
        session.enqueue(blob)
    return session.finish(root, children)


def digest_of(document: Document) -> str:
    from sandboxbuild.oci.digest import sha256_digest

    return sha256_digest(document.content)


def push_blob(repository: Repository, blob: PushBlob, on_progress: Progress = no_progress) -> tuple[int, int]:
    """See to it that `repository` has the blob. Gives (bytes sent, 1 if it was mounted). Raises RegistryError."""
    descriptor = blob.descriptor
    upload: Upload | None = None
    if repository.blob_exists(descriptor.digest, descriptor.size_bytes):
        on_progress(descriptor.digest, descriptor.size_bytes, descriptor.size_bytes)
        return 0, 0
    for host, name in blob.mount_from:
        if host == repository.host and name != repository.name:
            upload = repository.start_upload(descriptor.digest, name)
            if upload is None:
                on_progress(descriptor.digest, descriptor.size_bytes, descriptor.size_bytes)
                return 0, 1
    _Uploading(repository, blob, on_progress).run(upload or _started(repository))
    return descriptor.size_bytes, 0


def _started(repository: Repository) -> Upload:
    upload = repository.start_upload()
    assert upload is not None, "only a mount gives None"
    return upload


class _Uploading:
    """One blob on its way to one repository, over as many tries as it takes."""

    def __init__(self, repository: Repository, blob: PushBlob, on_progress: Progress) -> None:
        self._repository = repository
        self._blob = blob
        self._progress = on_progress
        self._chunk_bytes = 0  # 0: the rest in one request

    def run(self, upload: Upload) -> None:
        retry = self._repository.retry
        for _ in range(_RESUMES_LIMIT):
            started_at = upload.offset
            try:
                self._send(upload)
                return
            except TransientError as error:
                upload = self._resumed(upload)
                retry = retry.progressed() if upload.offset > started_at else retry
                retry = retry.failed(error)
                self._repository.waiting.sleep(retry.delay_s(error, self._repository.waiting.fraction()))
            except RegistryError as error:
                if error.status != 413 or self._chunk_bytes:
                    raise
                self._chunk_bytes = FALLBACK_CHUNK_BYTES
                upload = _started(self._repository)
        raise RegistryError(f"push of {self._blob.descriptor.digest}: given up after {_RESUMES_LIMIT} interruptions")

    def _resumed(self, upload: Upload) -> Upload:
        """Where to go on: the session where it was interrupted, or a new one where the registry has forgotten it."""
        try:
            resumed = self._repository.upload_status(upload)
        except RegistryError:
            return _started(self._repository)
        return resumed if resumed.offset <= self._blob.descriptor.size_bytes else _started(self._repository)

    def _send(self, upload: Upload) -> None:
        descriptor = self._blob.descriptor
        whole = upload.offset == 0 and not self._chunk_bytes
        if whole:
            self._with_body(
                0, descriptor.size_bytes, lambda body: self._repository.finish_upload(upload, descriptor.digest, body)
            )
            return
        while upload.offset < descriptor.size_bytes:
            upload = self._send_part(upload)
        self._repository.finish_upload(upload, descriptor.digest, None)

    def _send_part(self, upload: Upload) -> Upload:
        left = self._blob.descriptor.size_bytes - upload.offset
        size = min(left, max(self._chunk_bytes, upload.minimum_chunk_bytes)) if self._chunk_bytes else left
        sent: list[Upload] = []
        self._with_body(upload.offset, size, lambda body: sent.append(self._repository.send_chunk(upload, body)))
        return sent[0]

    def _with_body(self, offset: int, size: int, send: Callable[[Body], object]) -> None:
        source = self._blob.open_at(offset)
        try:
            send(_PartBody(source, offset, size, self._blob.descriptor, self._progress))
        finally:
            source.close()


class _PartBody:
    """`size_bytes` bytes of a blob from `offset`, counted as they leave."""

    __slots__ = ("_at", "_descriptor", "_left", "_progress", "_source", "size_bytes")

    def __init__(self, source: Source, offset: int, size: int, descriptor: Descriptor, progress: Progress) -> None:
        self._source = source
        self._at = offset
        self._left = size
        self._descriptor = descriptor
        self._progress = progress
        self.size_bytes = size

    def read(self, count: int, /) -> bytes:
        chunk = self._source.read(min(count, self._left))
        self._left -= len(chunk)
        self._at += len(chunk)
        self._progress(self._descriptor.digest, self._at, self._descriptor.size_bytes)
        return chunk


def _key(repository: Repository) -> tuple[str, str]:
    return repository.host, repository.name


def _repositories(destinations: Sequence[Destination]) -> list[Repository]:
    return list({_key(d.repository): d.repository for d in destinations}.values())
