"""Digests (image-spec descriptor.md, Digests): checked text, verification while bytes stream by, DiffIDs and ChainIDs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final, Union

from sandboxbuild.errors import IntegrityError

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}", re.ASCII)
Chunk = Union[bytes, bytearray, memoryview]


def parse_digest(text: str) -> str:
    """`text` itself if it is sha256 or sha512 with lower-case hex of the exact length; else raises IntegrityError.

    What passes is safe as a path component, once it is split at its colon.
    """
    if _DIGEST.fullmatch(text) is None:
        raise IntegrityError(f"{text[:160]!r} is not a digest", hint="a digest is sha256: and 64 lower-case hex digits")
    return text


def is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


def algorithm_of(digest: str) -> str:
    return digest.partition(":")[0]


def encoded_of(digest: str) -> str:
    """The hex part."""
    return digest.partition(":")[2]


def short(digest: str) -> str:
    """The first twelve hex digits, for people."""
    return encoded_of(digest)[:12]


def sha256_digest(data: Chunk) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Verifier:
    """Takes the bytes as they stream by and says at the end whether they are those of a digest and a size.

    Raises IntegrityError as soon as there are more bytes than expected, so that an endless stream ends. Not thread-safe.
    """

    __slots__ = ("_digest", "_hash", "_seen_bytes", "_size_bytes")

    def __init__(self, digest: str, size_bytes: int | None = None) -> None:
        self._digest = parse_digest(digest)
        self._hash = hashlib.new(algorithm_of(digest))
        self._size_bytes = size_bytes
        self._seen_bytes = 0

    def update(self, chunk: Chunk) -> None:
        """`chunk` counts in bytes."""
        self._seen_bytes += len(chunk)
        if self._size_bytes is not None and self._seen_bytes > self._size_bytes:
            raise IntegrityError(f"{self._digest} has more than the {self._size_bytes} bytes that were promised")
        self._hash.update(chunk)

    def finish(self) -> None:
        if self._size_bytes is not None and self._seen_bytes != self._size_bytes:
            raise IntegrityError(f"{self._digest} has {self._seen_bytes} bytes instead of {self._size_bytes}")
        actual = f"{algorithm_of(self._digest)}:{self._hash.hexdigest()}"
        if actual != self._digest:
            raise IntegrityError(f"the bytes promised as {self._digest} are {actual}")


def verify(data: Chunk, digest: str, size_bytes: int | None = None) -> None:
    verifier = Verifier(digest, size_bytes)
    verifier.update(data)
    verifier.finish()


def extend_chain(parent: str, diff_id: str) -> str:
    """The ChainID of `diff_id` on top of the chain `parent`, "" being no layer (image-spec config.md, Layer ChainID)."""
    return sha256_digest(f"{parent} {diff_id}".encode()) if parent else diff_id


def chain_ids(diff_ids: Iterable[str]) -> tuple[str, ...]:
    """The ChainID of each layer on top of those before it."""
    result: list[str] = []
    for diff_id in diff_ids:
        result.append(extend_chain(result[-1] if result else "", parse_digest(diff_id)))
    return tuple(result)


def chain_id(diff_ids: Iterable[str]) -> str:
    """The ChainID of all of `diff_ids`, bottom first; "" for none."""
    chains = chain_ids(diff_ids)
    return chains[-1] if chains else ""
