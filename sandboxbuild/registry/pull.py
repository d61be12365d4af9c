"""Pull: a reference becomes a manifest and a config for one platform; blobs stream, resumed after a drop, and verified."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from sandboxbuild.errors import IntegrityError, RegistryError
from sandboxbuild.oci.descriptor import Descriptor
from sandboxbuild.oci.digest import Verifier
from sandboxbuild.oci.manifest import Index, Manifest, decode
from sandboxbuild.oci.platform import Platform, choose
from sandboxbuild.oci.reference import Reference
from sandboxbuild.registry import CHUNK_BYTES, Response, Transport
from sandboxbuild.registry.failures import TransientError, quoted
from sandboxbuild.registry.repository import FetchedManifest, Repository
from sandboxbuild.registry.retry import Retry

CONFIG_LIMIT_BYTES: Final = 8 * 1024 * 1024
INDEX_DEPTH: Final = 2  # an index may name an index, and no deeper
_RESUMES_LIMIT: Final = 100

OnBytes = Callable[[int], object]  # told how many bytes of a blob have come so far


def ignore_bytes(_count: int) -> None:
    """The OnBytes of who doesn't want to know."""


class ResolvedImage(NamedTuple):
    """One image as a registry has it. `index_digest` is of the index that the reference named, "" if it named a manifest.

    `content` and `config` are verified bytes; what they say is still a stranger's word.
    """

    host: str
    repository: str
    manifest: Descriptor
    content: bytes
    config_descriptor: Descriptor
    config: bytes
    layers: tuple[Descriptor, ...]
    index_digest: str = ""

    @property
    def digest(self) -> str:
        """Of what the reference named: the index where there is one."""
        return self.index_digest or self.manifest.digest


def resolve_image(transport: Transport, reference: Reference, platform: Platform) -> ResolvedImage:
    """The image for `platform`. Raises RegistryError when there is none, IntegrityError for bytes that aren't as promised."""
    repository = Repository(transport, reference.registry, reference.repository)
    fetched = repository.get_manifest(reference.target)
    index = ""
    for _ in range(INDEX_DEPTH + 1):
        document = decode(fetched.content, fetched.media_type)
        if isinstance(document, Manifest):
            return _image(repository, fetched, document, index)
        index = index or fetched.digest
        fetched = _child(repository, document, platform, str(reference))
    raise RegistryError(f"{reference}: indexes within indexes, more than {INDEX_DEPTH} deep")


def _child(repository: Repository, index: Index, platform: Platform, name: str) -> FetchedManifest:
    candidates = [descriptor.platform for descriptor in index.manifests]
    position = choose(candidates, platform)
    if position is None:
        offered = ", ".join(sorted({quoted(text, 60) for text in candidates if text and not text.startswith("unknown")})[:20])
        raise RegistryError(f"{name} has no image for {platform}", hint=f"it has images for {offered or 'no platform'}")
    chosen = index.manifests[position]
    fetched = repository.get_manifest(chosen.digest)
    if len(fetched.content) != chosen.size_bytes:
        raise IntegrityError(f"{chosen.digest} has {len(fetched.content)} bytes instead of {chosen.size_bytes}")
    return fetched


def _image(repository: Repository, fetched: FetchedManifest, manifest: Manifest, index: str) -> ResolvedImage:
    config = read_blob(repository, manifest.config, CONFIG_LIMIT_BYTES)
    return ResolvedImage(
        host=repository.host,
        repository=repository.name,
        manifest=Descriptor(manifest.media_type, fetched.digest, len(fetched.content)),
        content=fetched.content,
        config_descriptor=manifest.config,
        config=config,
        layers=manifest.layers,
        index_digest=index,
    )


def read_blob(repository: Repository, descriptor: Descriptor, limit_bytes: int) -> bytes:
    """A whole small blob, verified. Raises RegistryError if it is promised to be longer than `limit_bytes`."""
    if descriptor.size_bytes > limit_bytes:
        raise RegistryError(f"{descriptor.digest} has {descriptor.size_bytes} bytes, more than {limit_bytes}")
    stream = stream_blob(repository, descriptor)
    try:
        parts = []
        while chunk := stream.read(CHUNK_BYTES):
            parts.append(chunk)
        return b"".join(parts)
    finally:
        stream.close()


class BlobStream:
    """A blob's bytes, resumed where a connection was lost. For one thread; close() is idempotent.

    read() gives b"" once `size_bytes` bytes have come, never more and never fewer. Nothing is hashed here: see VerifiedStream.
    """

    def __init__(self, repository: Repository, descriptor: Descriptor, on_bytes: OnBytes = ignore_bytes) -> None:
        self._repository = repository
        self._descriptor = descriptor
        self._on_bytes = on_bytes
        self._response: Response | None = None
        self._position = 0
        self._retry: Retry = repository.retry
        self._resumes = 0

    def read(self, count: int, /) -> bytes:
        """Raises RegistryError when the tries are used up, IntegrityError for a blob that is longer than promised."""
        while True:
            try:
                return self._read(count)
            except TransientError as error:
                if self._response is not None:
                    error = self._broken_off(error)
                self.close()
                self._resumes += 1
                if self._resumes > _RESUMES_LIMIT:
                    raise error from None
                self._retry = self._retry.failed(error)
                waiting = self._repository.waiting
                waiting.sleep(self._retry.delay_s(error, waiting.fraction()))

    def _read(self, count: int) -> bytes:
        if self._position == self._descriptor.size_bytes:
            self._end()
            return b""
        if self._response is None:
            self._response = self._repository.open_blob(self._descriptor.digest, self._position)
        chunk = self._response.read(count)
        if not chunk:
            raise IntegrityError(
                f"{self._descriptor.digest} ends after {self._position} of {self._descriptor.size_bytes} promised bytes"
            )
        self._position += len(chunk)
        if self._position > self._descriptor.size_bytes:
            raise IntegrityError(f"{self._descriptor.digest} has more than the {self._descriptor.size_bytes} promised bytes")
        self._retry = self._retry.progressed()
        self._on_bytes(self._position)
        return chunk

    def _broken_off(self, error: TransientError) -> TransientError:
        """`error`, saying which blob it was."""
        described, repository = self._descriptor, self._repository
        text = f"{repository.host}/{repository.name}: {described.digest} broke off after {self._position} of"
        return TransientError(
            f"{text} {described.size_bytes} bytes: {error.message}",
            status=error.status,
            retry_after_s=error.retry_after_s,
            hint=error.hint,
        )

    def _end(self) -> None:
        """All bytes have come; another one would be one too many."""
        if self._response is not None and self._response.read(1):
            raise IntegrityError(f"{self._descriptor.digest} has more than the {self._descriptor.size_bytes} promised bytes")
        self.close()

    def close(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            response.close()

    def __enter__(self) -> BlobStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class VerifiedStream(BlobStream):
    """A BlobStream that checks the digest: the read() that would give b"" raises IntegrityError if it is another one."""

    def __init__(self, repository: Repository, descriptor: Descriptor, on_bytes: OnBytes = ignore_bytes) -> None:
        super().__init__(repository, descriptor, on_bytes)
        self._verifier: Verifier | None = Verifier(descriptor.digest, descriptor.size_bytes)

    def read(self, count: int, /) -> bytes:
        chunk = super().read(count)
        if chunk and self._verifier is not None:
            self._verifier.update(chunk)
        elif self._verifier is not None:
            verifier, self._verifier = self._verifier, None
            verifier.finish()
        return chunk


def stream_blob(repository: Repository, descriptor: Descriptor, on_bytes: OnBytes = ignore_bytes) -> VerifiedStream:
    """The blob's bytes, verified as they come: whoever reads to the end has read what the digest names."""
    return VerifiedStream(repository, descriptor, on_bytes)


def stream_unverified(repository: Repository, descriptor: Descriptor, on_bytes: OnBytes = ignore_bytes) -> BlobStream:
    """The blob's bytes for a reader that verifies digest and size itself (archive.read_layer, a store's ingest)."""
    return BlobStream(repository, descriptor, on_bytes)
