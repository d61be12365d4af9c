"""The tar reader against tarfile, GNU tar's sparse files, and everything that isn't tar."""

import io
import struct
import tarfile
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.archive import member as kinds
from sandboxbuild.archive.header import Malformed, checksum, number, parse_pax, seconds_to_ns
from sandboxbuild.archive.member import ArchiveLimits, TarMember
from sandboxbuild.archive.reader import TarReader, read_entries
from sandboxbuild.errors import InputError, IntegrityError, LimitExceeded, SandboxbuildError

LIMITS = ArchiveLimits(entries=1000, total_bytes=1 << 30, header_bytes=1 << 16)


def read(data: bytes, limits: ArchiveLimits = LIMITS) -> list[tuple[TarMember, bytes]]:
    found = []
    for entry, content in read_entries(io.BytesIO(data), limits):
        found.append((entry, b"".join(iter(lambda content=content: content.read(1 << 16), b""))))  # type: ignore[misc]
    return found


def make(fill: Callable[[tarfile.TarFile], None], **options: object) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as tar:  # type: ignore[call-overload]
        fill(tar)
    return buffer.getvalue()


def info(name: str, **fields: object) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(found, field, value)
    return found


def header(name: bytes = b"f", size: int = 0, kind: bytes = b"0", **changes: bytes) -> bytes:
    fields = {
        "name": name, "mode": b"0000644\0", "uid": b"0000000\0", "gid": b"0000000\0", "size": b"%011o\0" % size,
        "mtime": b"00000000000\0", "sum": b"        ", "kind": kind, "link": b"", "magic": b"ustar\x0000",
    }  # fmt: skip
    fields |= changes
    block = struct.pack("100s8s8s8s12s12s8sc100s8s247x", *fields.values())
    return block[:148] + (b"%06o\0 " % checksum(block)) + block[156:]


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    return header(b"pax", len(records), kind) + records + bytes(-len(records) % 512)


def record(key: bytes, value: bytes) -> bytes:
    body = b" %b=%b\n" % (key, value)
    length = len(body) + 1
    while len(b"%d" % length) + len(body) != length:
        length = len(b"%d" % length) + len(body)
    return b"%d%b" % (length, body)


names = st.text(st.characters(exclude_characters="\0/", exclude_categories=("Cs",)), min_size=1, max_size=60)
paths = st.lists(names, min_size=1, max_size=6).map("/".join).filter(lambda path: path.strip("/"))


@settings(max_examples=60, deadline=None)
@given(
    format_=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    entries=st.lists(
        st.tuples(
            paths, st.sampled_from("01256"), st.integers(0, 0o7777), st.integers(0, 2**33), st.integers(0, 2**40), paths,
            st.binary(max_size=2000),
        ),
        max_size=6,
    ),
)  # fmt: skip
def test_reads_what_tarfile_wrote(format_: int, entries: list[tuple[str, str, int, int, int, str, bytes]]) -> None:
    def fill(tar: tarfile.TarFile) -> None:
        for path, kind, mode, uid, mtime, target, content in entries:
            added = info(path, type=kind.encode(), mode=mode, uid=uid, gid=uid // 3, mtime=mtime, linkname=target)
            added.size = len(content) if kind == "0" else 0
            tar.addfile(added, io.BytesIO(content))

    data = make(fill, format=format_)
    with tarfile.open(fileobj=io.BytesIO(data)) as judge:
        wanted = judge.getmembers()
        found = read(data)
        assert len(found) == len(wanted)
        for (entry, content), other in zip(found, wanted, strict=True):
            assert entry.path == other.name.encode("utf-8", "surrogateescape").rstrip(b"/")
            assert (entry.kind, entry.mode, entry.uid, entry.gid) == (other.type, other.mode, other.uid, other.gid)
            assert entry.mtime_ns == int(other.mtime) * 10**9
            if entry.kind in (kinds.SYMLINK, kinds.HARD_LINK):
                assert entry.link_target == other.linkname.encode("utf-8", "surrogateescape")
            if entry.kind == kinds.FILE:
                assert content == judge.extractfile(other).read()  # type: ignore[union-attr]


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=3000))
def test_any_bytes_give_entries_or_our_error(data: bytes) -> None:
    try:
        read(data)
    except SandboxbuildError:
        pass


VALID = make(
    lambda tar: [
        tar.addfile(info("a" * 120 + "/b" * 90, size=5, pax_headers={"SCHILY.xattr.user.x": "1"}), io.BytesIO(b"12345")),
        tar.addfile(info("l", type=tarfile.SYMTYPE, linkname="x" * 200)),
        tar.addfile(
            info("sparse", pax_headers={"GNU.sparse.map": "0,1,5,0", "GNU.sparse.size": "9"}, size=1), io.BytesIO(b"x")
        ),
    ],
    format=tarfile.PAX_FORMAT,
)  # type: ignore[arg-type, return-value]  # a list of Nones


@settings(max_examples=200, deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), min_size=1, max_size=8), fix=st.booleans()
)
def test_damaged_archives_give_entries_or_our_error(edits: list[tuple[int, int]], fix: bool) -> None:
    data = bytearray(VALID)
    for at, value in edits:
        data[at] = value
        start = at // 512 * 512
        if fix and data[start + 257 : start + 262] == b"ustar":
            data[start + 148 : start + 156] = b"        "
            data[start + 148 : start + 156] = b"%06o\0 " % checksum(bytes(data[start : start + 512]))
    try:
        read(bytes(data))
    except SandboxbuildError:
        pass


@settings(max_examples=80, deadline=None)
@given(
    keys=st.lists(
        st.tuples(
            st.sampled_from(
                [b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime", b"GNU.sparse.map", b"GNU.sparse.size",
                 b"GNU.sparse.name", b"GNU.sparse.major", b"GNU.sparse.minor", b"GNU.sparse.realsize", b"GNU.sparse.offset",
                 b"GNU.sparse.numbytes",
                 b"SCHILY.xattr.user.a", b"LIBARCHIVE.xattr.user.%41"]
            ),
            st.one_of(st.integers(-9, 2000).map(lambda n: b"%d" % n), st.binary(max_size=30), st.just(b"0,1,2,3")),
        ),
        max_size=8,
    ),
    kind=st.sampled_from(b"x g L K S".split()),
    body=st.binary(max_size=600),
)  # fmt: skip
def test_any_extended_header_gives_entries_or_our_error(keys: list[tuple[bytes, bytes]], kind: bytes, body: bytes) -> None:
    records = b"".join(record(key, value) for key, value in keys)
    data = pax(records, kind) + header(b"f", len(body)) + body + bytes(-len(body) % 512 + 1024)
    try:
        read(data)
    except SandboxbuildError:
        pass


def test_extended_headers_win_over_the_plain_one() -> None:
    records = [
        (b"path", b"p"),
        (b"uid", b"5000000"),
        (b"gid", b"6000000"),
        (b"size", b"3"),
        (b"mtime", b"1.5"),
        (b"uname", b"x"),
    ]
    data = pax(b"".join(record(*pair) for pair in records)) + header() + b"abc".ljust(512, b"\0") + bytes(1024)
    [(entry, content)] = read(data)
    assert (entry.path, entry.uid, entry.gid, entry.mtime_ns, content) == (b"p", 5_000_000, 6_000_000, 1_500_000_000, b"abc")


def test_global_headers_hold_until_an_entry_says_otherwise() -> None:
    data = pax(record(b"mtime", b"7") + record(b"comment", b"c"), b"g") + header(b"a") + pax(record(b"mtime", b"8"))
    data += header(b"b") + header(b"c")
    assert [(e.path, e.mtime_ns) for e, _ in read(data)] == [(b"a", 7 * 10**9), (b"b", 8 * 10**9), (b"c", 7 * 10**9)]


def test_an_empty_record_leaves_the_plain_field() -> None:
    [(entry, _)] = read(pax(record(b"path", b"") + record(b"uid", b"")) + header(b"kept", uid=b"0000007\0"))
    assert (entry.path, entry.uid) == (b"kept", 7)


@pytest.mark.parametrize(
    "text, ns",
    [
        (b"1", 10**9),
        (b"1.000000001", 10**9 + 1),
        (b"1.0000000019", 10**9 + 1),
        (b"-1.5", -1_500_000_000),
        (b"-0.0000000001", -1),
    ],
)
def test_times_round_down_to_nanoseconds(text: bytes, ns: int) -> None:
    assert seconds_to_ns(text) == ns


def test_xattrs_come_in_two_spellings() -> None:
    records = record(b"LIBARCHIVE.xattr.user.%61b", b"eA") + record(b"SCHILY.xattr.security.capability", b"\1\0\n=")
    [(entry, _)] = read(pax(records) + header())
    assert entry.xattrs == (("security.capability", b"\1\0\n="), ("user.ab", b"x"))


def test_numbers_in_base_256_and_with_spaces() -> None:
    assert number(b"\x80" + (10**15).to_bytes(11, "big")) == 10**15
    assert number(b"\xff" * 12, signed=True) == -1
    assert number(b"  644 \0 ") == 0o644
    assert number(bytes(8)) == 0
    for wrong in (b"\xff" * 12, b"9999999\0", b"-000007\0", b"\x81" + bytes(11)):
        with pytest.raises(Malformed):
            number(wrong)


def test_star_keeps_times_in_the_prefix() -> None:
    block = bytearray(header(b"name"))
    block[345 + 131 : 500] = b"12345670123 12345670123 "
    block[508:512] = b"tar\0"
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % checksum(bytes(block))
    assert read(bytes(block))[0][0].path == b"name"


def test_signed_checksums_of_old_tars_are_good() -> None:
    block = header(b"n\xe4me")
    total = sum(block[:148] + block[156:]) + 256 - 256
    block = block[:148] + (b"%06o\0 " % total) + block[156:]
    assert read(block)[0][0].path == b"n\xe4me"


OLD_SPARSE = b"".join(b"%011o\0%011o\0" % pair for pair in [(0, 3), (1000, 2), (0, 0), (0, 0)])


def old_sparse() -> bytes:
    block = bytearray(header(b"s", 5, b"S", magic=b"ustar  \0"))
    block[386 : 386 + 96] = OLD_SPARSE
    block[483:495] = b"%011o\0" % 2000
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % checksum(bytes(block))
    return bytes(block) + b"abcde".ljust(512, b"\0")


SPARSE_00 = b"".join(
    record(key, value)
    for key, value in [
        (b"GNU.sparse.size", b"2000"), (b"GNU.sparse.numblocks", b"2"), (b"GNU.sparse.offset", b"0"),
        (b"GNU.sparse.numbytes", b"3"), (b"GNU.sparse.offset", b"1000"), (b"GNU.sparse.numbytes", b"2"),
    ]
)  # fmt: skip
SPARSE_01 = record(b"GNU.sparse.size", b"2000") + record(b"GNU.sparse.name", b"s") + record(b"GNU.sparse.map", b"0,3,1000,2")
SPARSE_10 = b"".join(
    record(key, value)
    for key, value in [
        (b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", b"s"), (b"GNU.sparse.realsize", b"2000"),
    ]
)  # fmt: skip
MAP_10 = b"2\n0\n3\n1000\n2\n".ljust(512, b"\0")


@pytest.mark.parametrize(
    "data",
    [
        old_sparse(),
        pax(SPARSE_00) + header(b"s", 5) + b"abcde".ljust(512, b"\0"),
        pax(SPARSE_01) + header(b"GNUSparseFile.1/s", 5) + b"abcde".ljust(512, b"\0"),
        pax(SPARSE_10) + header(b"GNUSparseFile.1/s", 517) + MAP_10 + b"abcde".ljust(512, b"\0"),
    ],
    ids=["old", "0.0", "0.1", "1.0"],
)
def test_every_kind_of_sparse_file(data: bytes) -> None:
    after = header(b"after")
    [(entry, content), (following, _)] = read(data + after)
    assert (entry.path, entry.size_bytes, entry.stored_bytes, content) == (b"s", 2000, 5, b"abcde")
    assert entry.segments == ((0, 3), (1000, 2))
    assert following.path == b"after"


def test_a_long_old_sparse_map_goes_on_in_more_blocks() -> None:
    pairs = [(i * 10, 1) for i in range(4 + 21 + 2)]
    block = bytearray(header(b"s", len(pairs), b"S", magic=b"ustar  \0"))
    encoded = [b"%011o\0%011o\0" % pair for pair in pairs]
    block[386:482] = b"".join(encoded[:4])
    block[482] = 1
    block[483:495] = b"%011o\0" % 5000
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % checksum(bytes(block))
    one = b"".join(encoded[4:25]) + b"\1" + bytes(7)
    two = b"".join(encoded[25:]).ljust(512, b"\0")
    [(entry, content)] = read(bytes(block) + one + two + (b"x" * len(pairs)).ljust(512, b"\0"))
    assert entry.segments is not None and list(entry.segments) == pairs
    assert content == b"x" * 27


@pytest.mark.parametrize("numbers", [b"0,3,1,2", b"0,3,1999,2", b"0,3,1000,3", b"0,3,1000", b"5,x", b"0,3,-1,2"])
def test_sparse_maps_that_overlap_or_do_not_fit_are_errors(numbers: bytes) -> None:
    records = record(b"GNU.sparse.size", b"2000") + record(b"GNU.sparse.map", numbers)
    with pytest.raises(InputError):
        read(pax(records) + header(b"s", 5) + bytes(512))


@pytest.mark.parametrize(
    "data",
    [
        header()[:300],
        header(size=1000) + bytes(512),
        pax(record(b"path", b"x")),
        pax(record(b"path", b"x")) + bytes(1024),
        header() + bytes(512) + header(),
        header(kind=b"Z"),
        header(kind=b"M"),
        header(name=b""),
        header(size=0, uid=b"-000001\0"),
        pax(record(b"path", b"a\0b")) + header(),
        pax(b"5 a=b") + header(),
        pax(b"999 path=x\n") + header(),
        pax(b"0 path=x\n") + header(),
        header()[:148] + b"0000000\0" + header()[156:],
        b"not a tar " * 100,
    ],
)
def test_what_is_malformed_is_an_error_of_the_class_that_was_asked_for(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        list(read_entries(io.BytesIO(data), error=IntegrityError))


def test_an_archive_may_end_without_its_blocks_of_zeros() -> None:
    assert len(read(header())) == 1
    assert len(read(header() + bytes(512))) == 1
    assert read(b"") == []


def test_what_follows_the_end_means_nothing() -> None:
    assert len(read(header(b"a") + bytes(1024) + header(b"b"))) == 1


@pytest.mark.parametrize(
    "data, limits",
    [
        (header(b"a") * 3, {"entries": 2}),
        (pax(record(b"path", b"x" * 600)) + header(), {"header_bytes": 500}),
        (pax(record(b"k", b"x" * 300), b"g") + pax(record(b"j", b"x" * 300), b"g") + header(), {"header_bytes": 500}),
        (header(b"long", 2000, b"L") + b"x" * 2048 + header(), {"header_bytes": 500}),
        (pax(record(b"path", b"x" * 600)) + header(), {"path_bytes": 500}),
        (header(b"x" * 60) * 3, {"name_bytes": 150}),
        (header(size=1 << 40), {"total_bytes": 1 << 30}),
        (
            pax(record(b"GNU.sparse.size", b"%d" % (1 << 40)) + record(b"GNU.sparse.map", b"")) + header(),
            {"total_bytes": 1 << 30},
        ),
        (pax(record(b"GNU.sparse.size", b"99") + record(b"GNU.sparse.map", b"1,1,2,1,3,1")) + header(b"s", 3), {"segments": 2}),
        (pax(SPARSE_10) + header(b"s", 1024) + b"9999999\n".ljust(512, b"1"), {"segments": 2}),
    ],
)
def test_every_limit_is_kept(data: bytes, limits: dict[str, int]) -> None:
    with pytest.raises(LimitExceeded):
        read(data, LIMITS._replace(**limits))


def test_content_that_nobody_reads_is_skipped() -> None:
    data = header(b"a", 1300) + b"x" * 1536 + header(b"b", 3) + b"abc".ljust(512, b"\0")
    reader = TarReader(io.BytesIO(data))
    assert [reader.next_member().path, reader.next_member().path] == [b"a", b"b"]  # type: ignore[union-attr]
    assert bytes(reader.piece()) == b"abc"
    assert not reader.piece()
    assert reader.next_member() is None is reader.next_member()


def test_headers_may_lie_across_reads() -> None:
    class Dribble(io.BytesIO):
        def read(self, n: int | None = -1, /) -> bytes:
            return super().read(min(n or 1, 100))

    data = VALID
    found = [entry for entry, _ in read_entries(Dribble(data))]
    assert found == [entry for entry, _ in read(data)]


def test_padding_of_pax_records_with_zeros_is_let_pass() -> None:
    assert parse_pax(record(b"a", b"b") + bytes(3)) == [(b"a", b"b")]
