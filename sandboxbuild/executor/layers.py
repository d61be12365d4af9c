"""Layers on their way: from a registry to the store, from the store to a directory, from a workspace to the store."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, Protocol

from sandboxbuild.archive.pipeline import ReadLayer, read_layer, write_layer
from sandboxbuild.errors import SandboxbuildError
from sandboxbuild.executor.channel import Vertex
from sandboxbuild.oci.descriptor import Descriptor
from sandboxbuild.oci.digest import chain_id
from sandboxbuild.snapshotters import Workspace
from sandboxbuild.store import Store
from sandboxbuild.store.layers import Layers as StoredLayers

PARALLEL_LAYERS = 3
READ_BYTES = 1024 * 1024


class LayerRef(NamedTuple):
    """A layer by its blob and its content. `remote` is (host, repository) where the blob can be had, None if only here."""

    descriptor: Descriptor
    diff_id: str
    remote: tuple[str, str] | None = None


class Rootfs(NamedTuple):
    """A filesystem as its layers, lowest first."""

    layers: tuple[LayerRef, ...] = ()

    @property
    def chain_id(self) -> str:
        """Names the content; "" for the empty filesystem."""
        return chain_id([layer.diff_id for layer in self.layers]) if self.layers else ""

    def plus(self, layer: LayerRef) -> Rootfs:
        return Rootfs((*self.layers, layer))

    def prefixes(self) -> tuple[Rootfs, ...]:
        """This filesystem after its first layer, after its second, and so on."""
        return tuple(Rootfs(self.layers[:count]) for count in range(1, len(self.layers) + 1))


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class BlobSource(Protocol):
    """Where a blob that the store lacks comes from. Thread-safe. Raises RegistryError."""

    def open_blob(self, remote: tuple[str, str], descriptor: Descriptor, on_bytes: Callable[[int], None]) -> Readable:
        """The blob's bytes, resumed and retried as they come; not verified."""


class Layers:
    """The layers of one build. Thread-safe: a layer that two stages need is fetched and unpacked once."""

    def __init__(self, store: Store, source: BlobSource, *, compression: str, epoch_s: int | None) -> None:
        self._store = store
        self._source = source
        self._compression = compression
        self._epoch_s = epoch_s
        self._locks: dict[tuple[str, str], threading.Lock] = {}
        self._guard = threading.Lock()

    def directories(self, rootfs: Rootfs, vertex: Vertex) -> list[str]:
        """The unpacked layers of `rootfs`, lowest first; what is missing is fetched, verified and unpacked.

        Blobs come side by side; they are unpacked in order, since a layer may leave it to those below how a directory looks.
        """
        prefixes = rootfs.prefixes()
        missing = [prefix for prefix in prefixes if self._store.layers.path(prefix.chain_id) is None]
        ahead = threading.Thread(target=self._fetch_ahead, args=([prefix.layers[-1] for prefix in missing[1:]], vertex))
        ahead.start()
        try:
            found: list[str] = []
            for prefix in prefixes:
                found.append(self._unpacked(prefix, found, vertex))
        finally:
            ahead.join()
        return found

    def require_blobs(self, layers: Sequence[LayerRef], vertex: Vertex) -> None:
        """See to it that the blob of each layer is in the store."""
        absent = [layer for layer in layers if not self._store.blobs.has(layer.descriptor.digest)]
        run_parallel([partial(self._fetch, layer, vertex) for layer in absent], PARALLEL_LAYERS)

    @contextmanager
    def staging(self) -> Iterator[str]:
        """A folder in the store's own mount, in which the workspace of a layer must be made, since rename(2) can't leave it."""
        with self._store.layers.staging() as path:
            yield path

    def add(self, rootfs: Rootfs, workspace: Workspace, staging: str, vertex: Vertex) -> LayerRef:
        """Make a layer of what the workspace changed: the blob and the unpacked directory are in the store afterwards."""
        with self._store.blobs.ingest(hashed=False) as ingest:
            written = write_layer(
                workspace.changes(),
                ingest.write,
                compression=self._compression,
                epoch_s=self._epoch_s,
                on_dropped=lambda name: vertex.warn(f"{name} is left out: a layer would take its name for a deletion"),
            )
            ingest.commit(written.digest)
        vertex.progress(written.digest[7:19], "compress", written.size_bytes, written.size_bytes)
        layer = LayerRef(Descriptor(written.media_type, written.digest, written.size_bytes), written.diff_id)
        target = os.path.join(staging, "layer")
        workspace.commit(target)
        self._store.layers.commit(target, rootfs.plus(layer).chain_id)
        return layer

    def _lock(self, kind: str, name: str) -> threading.Lock:
        """One for each name of each kind: an uncompressed lowest layer has its blob's digest as its chain's id."""
        with self._guard:
            return self._locks.setdefault((kind, name), threading.Lock())

    def _fetch_ahead(self, layers: Sequence[LayerRef], vertex: Vertex) -> None:
        """Fetch what will be unpacked soon; an error is left to the unpacking, which meets it again."""
        try:
            self.require_blobs(layers, vertex)
        except SandboxbuildError:
            return

    def _unpacked(self, prefix: Rootfs, parents: Sequence[str], vertex: Vertex) -> str:
        with self._lock("chain", prefix.chain_id):
            path = self._store.layers.path(prefix.chain_id)
            if path is not None:
                return path
            shared = self._store.shared_layers
            if shared is not None and (path := self._shared(shared, prefix, parents, vertex)) is not None:
                return path
            with self._store.layers.staging() as staging:
                target = os.path.join(staging, "layer")
                os.mkdir(target, 0o755)
                found = self._read(prefix.layers[-1], target, parents, vertex)
                return self._store.layers.commit(target, prefix.chain_id, is_plain=found.is_plain)

    def _shared(self, shared: StoredLayers, prefix: Rootfs, parents: Sequence[str], vertex: Vertex) -> str | None:
        """A plain layer in the store itself, where it stays for later builds, though other layers have to be kept elsewhere.

        None for one that can't lie there, whatever the reason: the same bytes are unpacked elsewhere then, and an error that is
        theirs is met again.
        """
        if (path := shared.path(prefix.chain_id)) is not None:
            return path if shared.is_plain(prefix.chain_id) else None
        self._fetch(prefix.layers[-1], vertex)
        try:
            with shared.staging() as staging:
                target = os.path.join(staging, "layer")
                os.mkdir(target, 0o755)
                if self._read(prefix.layers[-1], target, parents, vertex).is_plain:
                    return shared.commit(target, prefix.chain_id, is_plain=True)
        except (OSError, SandboxbuildError):
            pass
        return None

    def _read(self, layer: LayerRef, target: str, parents: Sequence[str], vertex: Vertex) -> ReadLayer:
        described = layer.descriptor
        with self._lock("blob", described.digest):
            if self._store.blobs.has(described.digest):
                with self._store.blobs.open(described.digest) as stream:
                    return read_layer(stream, described, layer.diff_id, target, parents=parents)
            with self._store.blobs.ingest(hashed=False) as ingest:
                tee = _Tee(self._open(layer, vertex), ingest.write)
                found = read_layer(tee, described, layer.diff_id, target, parents=parents)
                ingest.commit(described.digest)
                return found

    def _fetch(self, layer: LayerRef, vertex: Vertex) -> None:
        with self._lock("blob", layer.descriptor.digest):
            if self._store.blobs.has(layer.descriptor.digest):
                return
            stream = self._open(layer, vertex)
            with self._store.blobs.ingest() as ingest:
                while chunk := stream.read(READ_BYTES):
                    ingest.write(chunk)
                ingest.commit(layer.descriptor.digest)

    def _open(self, layer: LayerRef, vertex: Vertex) -> Readable:
        described = layer.descriptor
        assert layer.remote is not None, "a layer made here has its blob in the store"
        label = described.digest[7:19]
        return self._source.open_blob(
            layer.remote, described, lambda done: vertex.progress(label, "pull", done, described.size_bytes)
        )


class _Tee:
    """A stream that also writes what is read from it."""

    def __init__(self, stream: Readable, write: Callable[[bytes], object]) -> None:
        self._stream = stream
        self._write = write

    def read(self, size: int, /) -> bytes:
        chunk = self._stream.read(size)
        if chunk:
            self._write(chunk)
        return chunk


def run_parallel(jobs: Sequence[Callable[[], object]], width: int) -> None:
    """Run `jobs` on at most `width` threads; when all have ended, raise the first error. One job needs no thread."""
    if len(jobs) <= 1:
        for job in jobs:
            job()
        return
    waiting = list(reversed(jobs))
    errors: list[BaseException] = []
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                if errors or not waiting:
                    return
                job = waiting.pop()
            try:
                job()
            except BaseException as error:  # carried to the caller's thread below
                with lock:
                    errors.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(width, len(jobs)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
