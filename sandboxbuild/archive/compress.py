"""Compression of layers: the one importer of isal and zstd, both late.

gzip is ISA-L's. Its blocks are cut at exactly 1 MiB and each is compressed by itself with the last 32 KiB before it as
dictionary, so the bytes are a function of the content alone: not of the number of threads, nor of the sizes of writes.
There is no fallback to zlib for writing, as it would give the same image another digest.
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Collection
from typing import Any, Final, Protocol

from sandboxbuild.archive.member import CHUNK, Readable
from sandboxbuild.errors import InputError, LimitExceeded, SandboxbuildError

KINDS: Final = ("gzip", "zstd", "bzip2", "xz", "none")
GZIP_LEVEL: Final = 2
ZSTD_LEVEL: Final = 3
_ZSTD_WORKERS: Final = 2
_ZSTD_JOB_BYTES: Final = 2 << 20  # the default takes 60 MB more memory for 1.6 % less output
_MAGIC_BYTES: Final = 6
_WINDOW: Final = 32 << 10
_SKIPPABLE: Final = b"\x2a\x4d\x18"
# RFC 1952: no flags, no time, extra flags 0, operating system unknown.
_GZIP_HEADER: Final = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
_LAST_BLOCK: Final = b"\x03\0"


def detect(first: bytes) -> str:
    """The compression that `first`, at least 6 bytes from the start of a stream, announces; "none" for anything else."""
    if first[:3] == b"\x1f\x8b\x08":
        return "gzip"
    if first[:4] == b"\x28\xb5\x2f\xfd" or (first[1:4] == _SKIPPABLE and first[0] & 0xF0 == 0x50):
        return "zstd"
    if first[:3] == b"BZh":
        return "bzip2"
    if first[:6] == b"\xfd7zXZ\0":
        return "xz"
    return "none"


class _Decoder(Protocol):
    """One member or frame; the interface that bz2, lzma, zstd and isal share."""

    eof: bool
    needs_input: bool
    unused_data: bytes

    def decompress(self, data: bytes, /, max_length: int = -1) -> bytes: ...


class Decompressor:
    """Reads a compressed stream as plain bytes, at most `limit_bytes` of them (LimitExceeded); a Readable itself.

    Several members or frames in a row are one stream. Rubbish after the last one, and an end in the middle of one, raise
    `error`. Not thread-safe.
    """

    def __init__(self, source: Readable, kind: str, *, limit_bytes: int, error: type[SandboxbuildError] = InputError) -> None:
        self._source = source
        self._kind = kind
        self._left = limit_bytes
        self._limit = limit_bytes
        self._error = error
        self._make, self._failures = _decoders(kind)
        self._decoder: _Decoder | None = None
        self._input = b""

    def read(self, n: int, /) -> bytes:
        """Up to `n` plain bytes; b"" at the end of the stream."""
        while True:
            if not self._ready():
                return b""
            assert self._decoder is not None
            try:
                data = self._decoder.decompress(self._input, n)
            except self._failures as error:
                raise self._error(f"the {self._kind} stream is broken: {error}") from error
            self._input = b""
            if data:
                return self._count(data)

    def _ready(self) -> bool:
        """Have a decoder with something to decode, or say that the stream has ended."""
        decoder = self._decoder
        if decoder is not None and decoder.eof:
            self._input = decoder.unused_data
            decoder = self._decoder = None
        if decoder is None or decoder.needs_input:
            self._input = self._input or self._source.read(CHUNK >> 2)
            if not self._input:
                if decoder is None:
                    return False
                raise self._error(f"the {self._kind} stream ends in the middle")
        if decoder is None:
            self._decoder = self._make()
        return True

    def _count(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise LimitExceeded(f"an archive unpacks to more than {self._limit} bytes")
        return data


class _Plain:
    """Reads what isn't compressed, under the same limit."""

    def __init__(self, source: Readable, limit_bytes: int) -> None:
        self._source = source
        self._left = limit_bytes
        self._limit = limit_bytes

    def read(self, n: int, /) -> bytes:
        data = self._source.read(n)
        self._left -= len(data)
        if self._left < 0:
            raise LimitExceeded(f"an archive holds more than {self._limit} bytes")
        return data


class _Pushed:
    """A Readable that gives `first` before the rest of `source`."""

    def __init__(self, first: bytes, source: Readable) -> None:
        self._first = first
        self._source = source

    def read(self, n: int, /) -> bytes:
        if not self._first:
            return self._source.read(n)
        data, self._first = self._first[:n], self._first[n:]
        return data


def decompressor(
    source: Readable,
    kinds: Collection[str] = KINDS,
    *,
    limit_bytes: int,
    error: type[SandboxbuildError] = InputError,
) -> Readable:
    """`source` as plain bytes, by what its first bytes announce; a compression not in `kinds` is left as it is."""
    first = b""
    while len(first) < _MAGIC_BYTES and (more := source.read(CHUNK >> 2)):
        first += more
    kind = detect(first)
    whole = _Pushed(first, source)
    if kind == "none" or kind not in kinds:
        return _Plain(whole, limit_bytes)
    return Decompressor(whole, kind, limit_bytes=limit_bytes, error=error)


def _decoders(kind: str) -> tuple[Any, tuple[type[Exception], ...]]:
    """How to make a decoder for one member of `kind`, and what it raises on rubbish."""
    if kind == "gzip":
        from isal import igzip_lib

        broken: Any = igzip_lib.error
        return lambda: igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP), (broken, EOFError, ValueError)
    if kind == "zstd":
        zstd = _zstd()
        # 27 bits, 128 MiB, is what zstd(1) itself takes without being asked; more is a bomb's window.
        options = {zstd.DecompressionParameter.window_log_max: 27}
        return lambda: zstd.ZstdDecompressor(options=options), (zstd.ZstdError, EOFError)
    if kind == "bzip2":
        import bz2

        return bz2.BZ2Decompressor, (OSError, EOFError, ValueError)
    if kind == "xz":
        import lzma

        return lambda: lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=128 << 20), (lzma.LZMAError, EOFError)
    raise ValueError(kind)


def _zstd() -> Any:
    """Python's own module from 3.14 on, before it the backport of the same."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


class Compressor(Protocol):
    """Makes a compressed stream: write() any sizes, then flush() once. Both return bytes of the stream, maybe none."""

    def write(self, data: bytes | bytearray | memoryview, /) -> bytes: ...

    def flush(self) -> bytes: ...


def compressor(kind: str, level: int | None = None) -> Compressor:
    """A compressor for "gzip" (`level` 1 to 3), "zstd" (1 to 19) or "none". Equal content gives equal bytes."""
    if kind == "gzip":
        return GzipCompressor(GZIP_LEVEL if level is None else level)
    if kind == "zstd":
        return _ZstdCompressor(ZSTD_LEVEL if level is None else level)
    if kind == "none":
        return _NoCompressor()
    raise ValueError(kind)


class GzipCompressor:
    """The gzip stream of the module docstring, on the calling thread."""

    def __init__(self, level: int) -> None:
        self._level = level
        self._frame = GzipFrame()
        self._pending = bytearray()
        self._output = [self._frame.header]

    def write(self, data: bytes | bytearray | memoryview, /) -> bytes:
        self._pending += data
        while len(self._pending) >= CHUNK:
            self._block(bytes(self._pending[:CHUNK]))
            del self._pending[:CHUNK]
        return self._take()

    def flush(self) -> bytes:
        if self._pending:
            self._block(bytes(self._pending))
        self._output.append(self._frame.trailer())
        return self._take()

    def _block(self, block: bytes) -> None:
        self._output.append(gzip_block(block, self._frame.follow(block), self._level))

    def _take(self) -> bytes:
        output, self._output = b"".join(self._output), []
        return output


class GzipFrame:
    """What surrounds the blocks of one gzip stream, and the dictionary of each; blocks arrive in order."""

    header: Final = _GZIP_HEADER

    def __init__(self) -> None:
        self._checksum = 0
        self._size = 0
        self._dictionary = b""

    def follow(self, block: bytes | memoryview) -> bytes:
        """Note the next block of plain bytes; returns the dictionary to compress it with."""
        dictionary, self._dictionary = self._dictionary, bytes(block[-_WINDOW:])
        self._checksum = zlib.crc32(block, self._checksum)
        self._size += len(block)
        return dictionary

    def trailer(self) -> bytes:
        return _LAST_BLOCK + struct.pack("<II", self._checksum, self._size & 0xFFFFFFFF)


def gzip_block(block: bytes | memoryview, dictionary: bytes, level: int) -> bytes:
    """One block of plain bytes as deflate blocks that end on a byte. Releases the GIL; may run on any thread."""
    from isal import isal_zlib

    deflate = isal_zlib.compressobj(level, isal_zlib.DEFLATED, -15, 8, 0, dictionary)
    packed: bytes = deflate.compress(block)
    rest: bytes = deflate.flush(isal_zlib.Z_SYNC_FLUSH)
    return packed + rest


class _ZstdCompressor:
    """zstd with at least one worker: its bytes then don't depend on how many there are."""

    def __init__(self, level: int) -> None:
        zstd = _zstd()
        names = zstd.CompressionParameter
        options = {
            names.compression_level: level,
            names.nb_workers: _ZSTD_WORKERS,
            names.job_size: _ZSTD_JOB_BYTES,
            names.checksum_flag: 1,
        }
        self._encoder = zstd.ZstdCompressor(options=options)

    def write(self, data: bytes | bytearray | memoryview, /) -> bytes:
        packed: bytes = self._encoder.compress(data)
        return packed

    def flush(self) -> bytes:
        packed: bytes = self._encoder.flush()
        return packed


class _NoCompressor:
    def write(self, data: bytes | bytearray | memoryview, /) -> bytes:
        return bytes(data)

    def flush(self) -> bytes:
        return b""
