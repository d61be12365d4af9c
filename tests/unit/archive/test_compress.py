"""Compression: what is detected, what is refused, and that bytes depend on the content alone."""

import bz2
import gzip
import io
import lzma
import random
import zlib

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.archive.compress import GzipFrame, compressor, decompressor, detect, gzip_block
from sandboxbuild.errors import IntegrityError, LimitExceeded, SandboxbuildError

LIMIT = 1 << 30
PLAIN = random.Random(1).randbytes(300_000) + b"text " * 400_000
PACKED = {
    "gzip": gzip.compress(PLAIN, 1),
    "zstd": zstd.compress(PLAIN, 1),
    "bzip2": bz2.compress(PLAIN, 1),
    "xz": lzma.compress(PLAIN, preset=0),
    "none": PLAIN,
}
kinds = pytest.mark.parametrize("kind", PACKED)
packed_kinds = pytest.mark.parametrize("kind", [kind for kind in PACKED if kind != "none"])


def expand(data: bytes, limit: int = LIMIT) -> bytes:
    plain = decompressor(io.BytesIO(data), limit_bytes=limit, error=IntegrityError)
    return b"".join(iter(lambda: plain.read(1 << 20), b""))


@kinds
def test_the_first_bytes_tell_the_compression(kind: str) -> None:
    assert detect(PACKED[kind][:6]) == kind
    assert expand(PACKED[kind]) == PLAIN


@packed_kinds
def test_members_in_a_row_are_one_stream(kind: str) -> None:
    assert expand(PACKED[kind] * 3) == PLAIN * 3


@packed_kinds
def test_a_cut_stream_is_an_error(kind: str) -> None:
    for length in (7, len(PACKED[kind]) // 2, len(PACKED[kind]) - 1):
        with pytest.raises(IntegrityError):
            expand(PACKED[kind][:length])


@packed_kinds
def test_rubbish_after_the_last_member_is_an_error(kind: str) -> None:
    with pytest.raises(IntegrityError):
        expand(PACKED[kind] + b"rubbish that is longer than any header")


@kinds
def test_a_bomb_stops_at_the_limit(kind: str) -> None:
    with pytest.raises(LimitExceeded):
        expand(PACKED[kind], limit=len(PLAIN) - 1)
    assert len(expand(PACKED[kind], limit=len(PLAIN))) == len(PLAIN)


@pytest.mark.parametrize("kind", ["gzip", "zstd", "bzip2", "xz"])
def test_a_read_never_gives_more_than_was_asked_for(kind: str) -> None:
    """However well a bomb packs, one read is one chunk."""
    make = {"gzip": gzip.compress, "zstd": zstd.compress, "bzip2": bz2.compress, "xz": lzma.compress}[kind]
    plain = decompressor(io.BytesIO(make(bytes(5 << 20))), limit_bytes=LIMIT)
    while chunk := plain.read(1000):
        assert len(chunk) <= 1000


def test_a_wrong_checksum_in_gzip_is_an_error() -> None:
    broken = bytearray(PACKED["gzip"])
    broken[-6] ^= 1
    with pytest.raises(IntegrityError):
        expand(bytes(broken))


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(["gzip", "zstd", "bzip2", "xz"]), data=st.binary(max_size=200), cut=st.integers(0, 60))
def test_rubbish_gives_our_error_or_bytes(kind: str, data: bytes, cut: int) -> None:
    try:
        expand(PACKED[kind][:cut] + data, limit=1 << 22)
    except SandboxbuildError:
        pass


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_bytes_do_not_depend_on_the_sizes_of_writes(kind: str) -> None:
    outputs = set()
    for size in (1000, 65_536, 777_777, 3_000_000):
        packer = compressor(kind)
        parts = [packer.write(PLAIN[at : at + size]) for at in range(0, len(PLAIN), size)]
        outputs.add(b"".join(parts) + packer.flush())
    assert len(outputs) == 1
    assert expand(outputs.pop()) == PLAIN


def test_gzip_is_one_member_without_a_time_that_every_gunzip_reads() -> None:
    packer = compressor("gzip")
    data = packer.write(PLAIN) + packer.flush()
    assert data[3:8] == bytes(5)
    unpacker = zlib.decompressobj(31)
    assert unpacker.decompress(data) == PLAIN
    assert unpacker.eof and not unpacker.unused_data


def test_blocks_compressed_on_their_own_are_the_stream_of_the_compressor() -> None:
    frame = GzipFrame()
    blocks = [PLAIN[at : at + (1 << 20)] for at in range(0, len(PLAIN), 1 << 20)]
    calls = [(block, frame.follow(block), 2) for block in blocks]
    packed = [gzip_block(*call) for call in reversed(calls)]
    packer = compressor("gzip")
    assert frame.header + b"".join(reversed(packed)) + frame.trailer() == packer.write(PLAIN) + packer.flush()


@pytest.mark.parametrize("kind", ["gzip", "zstd", "none"])
def test_nothing_compresses_to_a_valid_stream(kind: str) -> None:
    assert expand(compressor(kind).flush()) == b""


def test_an_unknown_compression_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError):
        compressor("lzw")
