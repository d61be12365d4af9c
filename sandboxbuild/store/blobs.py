"""Blobs by digest. A blob under its final name was complete when it came there, and is verified whenever it is read.

No fsync: a crash of the process can't tear a blob (written aside, then renamed), and after a power loss verification catches
a torn one, which is removed and counts as missing.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from sandboxbuild.errors import IntegrityError
from sandboxbuild.oci.descriptor import Descriptor
from sandboxbuild.oci.digest import Chunk, Verifier, algorithm_of, encoded_of, parse_digest
from sandboxbuild.store.disk import NEW_FILE, disk_errors, fresh_name, unlink_if_there, write_all
from sandboxbuild.store.layout import open_file
from sandboxbuild.store.leases import removing, using
from sandboxbuild.store.scratch import Scratch

CHUNK_BYTES: Final = 1024 * 1024


class Ingest:
    """A blob that is being written. Nobody sees it before commit(); without commit() nothing of it stays. Not thread-safe."""

    __slots__ = ("_algorithm", "_committed", "_fd", "_hash", "_name", "_scratch", "size_bytes")

    def __init__(self, scratch: Scratch, algorithm: str, hashed: bool) -> None:
        self._scratch = scratch
        self._algorithm = algorithm
        self._hash = hashlib.new(algorithm) if hashed else None
        self._name = fresh_name("blob")
        self._committed = False
        self.size_bytes = 0
        with disk_errors(scratch.root.path):
            self._fd = os.open(self._name, NEW_FILE, 0o644, dir_fd=scratch.fd)
        scratch.root.give_to_owner(self._fd)

    def write(self, chunk: Chunk) -> int:
        """Add bytes. Raises LimitExceeded if the disk is full."""
        write_all(self._fd, chunk, self._scratch.root.path)
        if self._hash is not None:
            self._hash.update(chunk)
        self.size_bytes += len(chunk)
        return len(chunk)

    def commit(self, expected_digest: str | None = None) -> tuple[str, int]:
        """Bring the blob under its final name; gives its digest and size. Raises IntegrityError if it is another's.

        A blob of that name that is there already is replaced by these same bytes.
        """
        digest = self._digest(expected_digest)
        root = self._scratch.root
        folder = root.folder(f"blobs/{self._algorithm}")
        with disk_errors(root.path), using(root):
            os.utime(self._fd)
            os.rename(self._name, encoded_of(digest), src_dir_fd=self._scratch.fd, dst_dir_fd=folder)
        self._committed = True
        return digest, self.size_bytes

    def close(self) -> None:
        os.close(self._fd)
        if not self._committed:
            unlink_if_there(self._scratch.fd, self._name)

    def _digest(self, expected: str | None) -> str:
        if self._hash is None:
            if expected is None or algorithm_of(parse_digest(expected)) != self._algorithm:
                raise IntegrityError("a blob that isn't hashed here needs its digest from who hashed it")
            return expected
        digest = f"{self._algorithm}:{self._hash.hexdigest()}"
        if expected is not None and digest != expected:
            raise IntegrityError(f"the bytes promised as {expected[:160]!r} are {digest}")
        return digest


class Blobs:
    """Thread-safe, and safe with other processes. Digests are checked before they become names.

    `marks_use=False` is for who only looks around: what is read keeps its time of last use.
    """

    __slots__ = ("_marks_use", "_scratch")

    def __init__(self, scratch: Scratch, *, marks_use: bool = True) -> None:
        self._scratch = scratch
        self._marks_use = marks_use

    def path(self, digest: str) -> str:
        """Where the blob lies if it is there. For mounts and messages; to read, use open() or read()."""
        return f"{self._scratch.root.path}/blobs/{algorithm_of(parse_digest(digest))}/{encoded_of(digest)}"

    def has(self, digest: str, size_bytes: int | None = None) -> bool:
        """Whether the blob is there (and of that size); marks it as used, so that a live build keeps it."""
        folder, name = self._place(digest)
        with using(self._scratch.root):
            try:
                os.utime(name, dir_fd=folder, follow_symlinks=False)
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except OSError:
                return False
        return size_bytes is None or status.st_size == size_bytes

    def open(self, digest: str) -> io.FileIO:
        """A stream of the blob's bytes, NOT verified: who reads them verifies, and calls discard() if they are wrong.

        Raises IntegrityError if there is no such blob. The caller closes it.
        """
        folder, name = self._place(digest)
        with using(self._scratch.root):
            try:
                fd = open_file(folder, name)
            except FileNotFoundError as error:
                raise _missing(digest) from error
            if self._marks_use:
                _touch(fd)
        return io.FileIO(fd, "rb")

    def read(self, digest: str, limit_bytes: int) -> bytes:
        """The whole blob, verified. Raises IntegrityError if it is missing, torn or larger than `limit_bytes`."""
        with self.open(digest) as stream:
            size_bytes = os.fstat(stream.fileno()).st_size
            if size_bytes > limit_bytes:
                raise IntegrityError(f"{digest} has {size_bytes} bytes in the store, more than {limit_bytes}")
        return b"".join(self.stream(Descriptor("", digest, size_bytes)))

    def stream(self, descriptor: Descriptor) -> Iterator[bytes]:
        """The blob in chunks, verified: what was given is right once the iteration has ended, and only then.

        A blob that is not what its digest says is removed from the store. Raises IntegrityError.
        """
        with self.open(descriptor.digest) as stream:
            verifier = Verifier(descriptor.digest, descriptor.size_bytes)
            try:
                while chunk := stream.read(CHUNK_BYTES):
                    verifier.update(chunk)
                    yield chunk
                verifier.finish()
            except IntegrityError as error:
                self.discard(descriptor.digest)
                raise IntegrityError(
                    f"the store's blob is torn and was removed: {error.message}", hint="build or pull it again"
                ) from error

    def put_bytes(self, data: bytes) -> str:
        """Store `data`; gives its sha256 digest. Idempotent."""
        with self.ingest() as ingest:
            ingest.write(data)
            return ingest.commit()[0]

    @contextmanager
    def ingest(self, *, algorithm: str = "sha256", hashed: bool = True) -> Iterator[Ingest]:
        """A blob to be written. `hashed=False` is for a writer that hashes by itself and gives the digest to commit()."""
        ingest = Ingest(self._scratch, algorithm, hashed)
        try:
            yield ingest
        finally:
            ingest.close()

    def discard(self, digest: str) -> None:
        """Remove a blob that turned out torn. Absent is fine; without the right to, it stays."""
        folder, name = self._place(digest)
        with removing(self._scratch.root):
            try:
                unlink_if_there(folder, name)
            except PermissionError:
                pass

    def touch(self, digests: Iterable[str]) -> None:
        """Mark those that are there as used."""
        with using(self._scratch.root):
            for digest in digests:
                folder, name = self._place(digest)
                try:
                    os.utime(name, dir_fd=folder, follow_symlinks=False)
                except OSError:
                    pass  # absent: images may name layers that only a registry has

    def _place(self, digest: str) -> tuple[int, str]:
        return self._scratch.root.folder(f"blobs/{algorithm_of(parse_digest(digest))}"), encoded_of(digest)


def _touch(fd: int) -> None:
    try:
        os.utime(fd)
    except OSError:
        pass  # a store that we may only read


def _missing(digest: str) -> IntegrityError:
    return IntegrityError(f"{digest} is not in the store", hint="build or pull it again")
