"""The first two stages of reading a layer, each in a thread of its own: the blob, verified, and the plain tar in it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import Final

from sandboxbuild.archive import compress
from sandboxbuild.archive.member import CHUNK, ArchiveLimits, Readable
from sandboxbuild.archive.threads import Pipe, PipeClosed
from sandboxbuild.errors import IntegrityError
from sandboxbuild.oci.descriptor import Descriptor

# What a layer is compressed with is read from its first bytes, as Docker and containerd do: there are images that
# announce gzip and hold something else, and the diff_id is verified whichever it was.
KINDS: Final = ("gzip", "zstd", "none")
_READ_BYTES: Final = 256 << 10
_PIPE_CHUNKS: Final = 4


class VerifiedBlob:
    """The compressed bytes, read and hashed in a thread of their own; a Readable. Its end comes only after a right digest."""

    def __init__(self, source: Readable, descriptor: Descriptor, on_progress: Callable[[int], None] | None) -> None:
        self._source = source
        self._descriptor = descriptor
        self._on_progress = on_progress
        self._pipe = Pipe(_PIPE_CHUNKS)
        self._wrong: IntegrityError | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="read-layer", daemon=True)
        self._thread.start()
        self.read = self._pipe.read

    def judge(self) -> None:
        """After a failure further on: read what is left, unseen, and raise IntegrityError if the blob is wrong."""
        self._pipe.close()
        self._thread.join()
        if self._wrong is not None:
            raise self._wrong

    def close(self) -> None:
        """End the thread as soon as the source lets it; the source's reads end by themselves."""
        self._stopped = True
        self._pipe.close()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._pump()
        except IntegrityError as error:
            self._wrong = error
            self._pipe.end(error)
        except BaseException as error:
            self._pipe.end(error)
        else:
            self._pipe.end()

    def _pump(self) -> None:
        digest = hashlib.sha256()
        wanted = self._descriptor.size_bytes
        done = 0
        listening = True
        while not self._stopped and (chunk := self._source.read(_READ_BYTES)):
            done += len(chunk)
            if done > wanted:
                raise IntegrityError(f"the layer {self._descriptor.digest} is longer than its {wanted} bytes")
            digest.update(chunk)
            if self._on_progress is not None:
                self._on_progress(done)
            if listening:
                listening = self._pass_on(chunk)
        if self._stopped:
            return
        if done < wanted:
            raise IntegrityError(f"the layer {self._descriptor.digest} ends after {done} of {wanted} bytes")
        found = "sha256:" + digest.hexdigest()
        if found != self._descriptor.digest:
            raise IntegrityError(f"the layer {self._descriptor.digest} has other bytes: they are {found}")

    def _pass_on(self, chunk: bytes) -> bool:
        try:
            self._pipe.write(chunk)
        except PipeClosed:
            return False
        return True


class PlainStream:
    """The plain tar, decompressed and hashed in a thread of its own; a Readable."""

    def __init__(self, blob: Readable, limits: ArchiveLimits) -> None:
        self._blob = blob
        self._limits = limits
        self._pipe = Pipe(_PIPE_CHUNKS)
        self._hash = hashlib.sha256()
        self._size = 0
        self._thread = threading.Thread(target=self._run, name="decompress-layer", daemon=True)
        self._thread.start()
        self.read = self._pipe.read

    def result(self) -> tuple[str, int]:
        """The diff_id and the size, once everything was read."""
        self._thread.join()
        return "sha256:" + self._hash.hexdigest(), self._size

    def close(self) -> None:
        """Stop; the thread ends when the blob does, at the latest."""
        self._pipe.close()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        try:
            limit = self._limits.total_bytes
            plain = compress.decompressor(self._blob, KINDS, limit_bytes=limit, error=IntegrityError)
            while chunk := plain.read(CHUNK):
                self._pipe.write(chunk)
                self._hash.update(chunk)
                self._size += len(chunk)
        except PipeClosed:
            return
        except BaseException as error:
            self._pipe.end(error)
        else:
            self._pipe.end()
