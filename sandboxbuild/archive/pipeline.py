"""A layer in and out, as a stream: read -> verify -> decompress -> unpack, and entries -> tar -> hash -> compress -> hash.

The stages run in threads with chunks of at most 1 MiB between them, so memory doesn't depend on a layer's size.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

from sandboxbuild.archive import compress
from sandboxbuild.archive.content import ContentOpener
from sandboxbuild.archive.directories import shown
from sandboxbuild.archive.hiding import hiding
from sandboxbuild.archive.lowers import LowerLayers
from sandboxbuild.archive.member import CHUNK, ArchiveLimits, Readable
from sandboxbuild.archive.reader import TarReader
from sandboxbuild.archive.scan import OPEN_DIRECTORY
from sandboxbuild.archive.streams import PlainStream, VerifiedBlob
from sandboxbuild.archive.threads import OrderedWorkers
from sandboxbuild.archive.unpack import Unpacker
from sandboxbuild.archive.writer import TarWriter
from sandboxbuild.errors import InputError, IntegrityError
from sandboxbuild.fstree.changes import Changes, Delete
from sandboxbuild.fstree.whiteout import looks_like_whiteout
from sandboxbuild.oci import descriptor as types
from sandboxbuild.oci.descriptor import Descriptor

_MEDIA_TYPES: Final = {"gzip": types.OCI_LAYER_GZIP, "zstd": types.OCI_LAYER_ZSTD, "none": types.OCI_LAYER}
_READABLE: Final = frozenset(
    {
        types.OCI_LAYER,
        types.OCI_LAYER_GZIP,
        types.OCI_LAYER_ZSTD,
        types.DOCKER_LAYER,
        types.DOCKER_LAYER_GZIP,
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    }
)
_MAX_WORKERS: Final = 4


class WrittenLayer(NamedTuple):
    """A layer that went to a sink. `diff_id` is the digest of the plain tar, of `diff_size_bytes`."""

    media_type: str
    digest: str
    diff_id: str
    size_bytes: int
    diff_size_bytes: int
    entries: int


class ReadLayer(NamedTuple):
    """A layer that was verified and unpacked; `size_bytes` is that of the plain tar. `is_plain` says that the tree has no
    whiteouts, attributes or devices, so that any filesystem holds it as it is.
    """

    diff_id: str
    size_bytes: int
    entries: int
    is_plain: bool


Sink = Callable[[memoryview], object]


def write_layer(
    changes: Changes,
    sink: Sink,
    *,
    compression: str = "gzip",
    level: int | None = None,
    epoch_s: int | None = None,
    on_dropped: Callable[[str], object] | None = None,
) -> WrittenLayer:
    """Write `changes` as a layer to `sink`, which gets the compressed bytes in order, on the calling thread.

    A path whose name a layer would take for a deletion (`.wh.`) is told to `on_dropped` and left out; without one it is an
    error.

    Raises InputError for what a layer can't hold or what changes meanwhile, and whatever `sink` and `changes` raise; no
    thread is left then.
    """
    workers = min(_MAX_WORKERS, len(os.sched_getaffinity(0))) if compression == "gzip" else 1
    with OrderedWorkers[bytes](workers, "compress") as threads, ContentOpener(changes.root) as content:
        output = _Output(sink, compression, level, threads)
        tar = TarWriter(output.plain, epoch_s)
        for change in changes.changes:
            if isinstance(change, Delete):
                tar.add_whiteout(change.path)
                continue
            if looks_like_whiteout(change.entry.path):
                if on_dropped is not None:
                    on_dropped(shown(change.entry.path))
                    continue
                raise InputError(
                    f"{shown(change.entry.path)} can't be in an image: layers take its name for a deletion",
                    hint="remove files whose names begin with .wh. in the step that makes them",
                )
            tar.add(change.entry, content.open)
            if change.opaque:
                tar.add_opaque(change.entry.path)
        tar.finish()
        output.finish()
    return WrittenLayer(
        _MEDIA_TYPES[compression], output.digest(), output.diff_id(), output.size_bytes, tar.size_bytes, tar.entries
    )


class _Output:
    """From chunks of plain tar to the sink: both digests, and the compression, on other threads, in between."""

    def __init__(self, sink: Sink, compression: str, level: int | None, threads: OrderedWorkers[bytes]) -> None:
        self._sink = sink
        self._threads = threads
        self._plain_hash = hashlib.sha256()
        self._packed_hash = hashlib.sha256()
        self.size_bytes = 0
        self._frame = compress.GzipFrame() if compression == "gzip" else None
        self._level = compress.GZIP_LEVEL if level is None else level
        self._compressor = None if self._frame else compress.compressor(compression, level)
        if self._frame:
            self._emit([self._frame.header])

    def plain(self, chunk: memoryview) -> None:
        """The TarWriter's sink: chunks of exactly 1 MiB, but for the last."""
        if self._frame:
            self._emit(self._threads.put(partial(compress.gzip_block, chunk, self._frame.follow(chunk), self._level)))
        else:
            assert self._compressor is not None
            self._emit(self._threads.put(partial(self._compressor.write, chunk)))
        self._plain_hash.update(chunk)

    def finish(self) -> None:
        self._emit(self._threads.rest())
        if self._frame:
            self._emit([self._frame.trailer()])
        else:
            assert self._compressor is not None
            self._emit([self._compressor.flush()])

    def digest(self) -> str:
        return "sha256:" + self._packed_hash.hexdigest()

    def diff_id(self) -> str:
        return "sha256:" + self._plain_hash.hexdigest()

    def _emit(self, packed: list[bytes]) -> None:
        for data in packed:
            self._packed_hash.update(data)
            self.size_bytes += len(data)
            for at in range(0, len(data), CHUNK):
                self._sink(memoryview(data)[at : at + CHUNK])


def read_layer(
    source: Readable,
    descriptor: Descriptor,
    expected_diff_id: str | None,
    target: str,
    *,
    whiteouts: str = "overlay",
    limits: ArchiveLimits | None = None,
    on_progress: Callable[[int], None] | None = None,
    parents: Sequence[str] = (),
) -> ReadLayer:
    """Verify the layer `source` against its descriptor and diff_id, and unpack it into the existing directory `target`.

    `whiteouts` is "overlay" (an empty `target` becomes a lower directory of an overlay) or "apply" (`target` is the tree of the
    layers below). `parents`, the unpacked layers below, lowest first, say how parents look that the archive doesn't list.
    `on_progress` is called with the compressed bytes read so far, on another thread. Not idempotent: after an error what is in
    `target` means nothing, and is the caller's to remove.

    Raises IntegrityError for bytes, size or diff_id that aren't as announced (also if they are what broke the unpacking) and
    for an archive that is malformed or unsafe; LimitExceeded, IsolationError (ids), and what `source` raises.
    """
    limits = limits or ArchiveLimits()
    if descriptor.media_type not in _READABLE:
        raise IntegrityError(f"{descriptor.digest} is no layer that can be unpacked: {descriptor.media_type!a}")
    lowers = LowerLayers(parents)
    blob = VerifiedBlob(source, descriptor, on_progress)
    plain = PlainStream(blob, limits)
    try:
        root_fd = os.open(target, OPEN_DIRECTORY)
        try:
            unpacked = _unpack(plain, root_fd, whiteouts, limits, lowers)
        finally:
            os.close(root_fd)
        return _verdict(plain.result(), unpacked, expected_diff_id, descriptor)
    except IntegrityError:
        plain.close()
        blob.judge()  # if the blob isn't what was announced, that is the error to report
        raise
    finally:
        plain.close()
        blob.close()
        plain.join()
        lowers.close()


def _unpack(plain: PlainStream, root_fd: int, whiteouts: str, limits: ArchiveLimits, lowers: LowerLayers) -> Unpacker:
    reader = TarReader(plain, limits, error=IntegrityError)
    unpacker = Unpacker(root_fd, reader, hiding=hiding(whiteouts), limits=limits, error=IntegrityError, lowers=lowers)
    try:
        unpacker.run()
        reader.drain()
    finally:
        unpacker.close()
    return unpacker


def _verdict(found: tuple[str, int], unpacked: Unpacker, expected_diff_id: str | None, descriptor: Descriptor) -> ReadLayer:
    diff_id, size_bytes = found
    if expected_diff_id is not None and diff_id != expected_diff_id:
        raise IntegrityError(f"the layer {descriptor.digest} unpacks to {diff_id}, but the image says {expected_diff_id}")
    return ReadLayer(diff_id, size_bytes, unpacked.entries, unpacked.is_plain)
