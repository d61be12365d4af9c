"""The tar writer: tarfile reads back what it wrote, and its bytes are a function of the entries."""

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.archive.reader import read_entries
from sandboxbuild.archive.writer import TarWriter
from sandboxbuild.errors import InputError
from sandboxbuild.fstree.entry import Entry


class Tar:
    """A TarWriter whose stream is at hand."""

    def __init__(self, epoch_s: int | None = None) -> None:
        self.chunks: list[bytes] = []
        self.writer = TarWriter(lambda chunk: self.chunks.append(bytes(chunk)), epoch_s)

    def finish(self) -> bytes:
        self.writer.finish()
        return b"".join(self.chunks)

    def members(self) -> list[tarfile.TarInfo]:
        with tarfile.open(fileobj=io.BytesIO(self.finish())) as tar:
            return tar.getmembers()


def entry(path: bytes, kind: int = stat.S_IFREG, mode: int = 0o644, **fields: object) -> Entry:
    return Entry(path, kind | mode, **fields)  # type: ignore[arg-type]


component = (
    st.binary(min_size=1, max_size=120)
    .map(lambda b: b.replace(b"/", b"_").replace(b"\0", b"_"))
    .filter(lambda b: b not in (b".", b".."))
)
clean_paths = st.lists(component, min_size=1, max_size=5).map(b"/".join)


@settings(max_examples=80, deadline=None)
@given(
    path=clean_paths, link=clean_paths,
    kind=st.sampled_from([stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR]),
    mode=st.integers(0, 0o7777), uid=st.integers(0, 2**32 - 2), mtime=st.integers(-(10**19), 10**21),
    xattr=st.binary(max_size=200), content=st.binary(max_size=1500),
)  # fmt: skip
def test_our_reader_gives_back_what_was_written(
    path: bytes, link: bytes, kind: int, mode: int, uid: int, mtime: int, xattr: bytes, content: bytes
) -> None:
    tar = Tar()
    written = entry(path, kind, mode, uid=uid, gid=uid // 2, mtime_ns=mtime, xattrs=(("user.x", xattr),))
    written = written._replace(
        link_target=link if kind == stat.S_IFLNK else b"", rdev=(4, 5) if kind == stat.S_IFCHR else (0, 0)
    )
    if kind == stat.S_IFREG:
        tar.writer.add_bytes(written, content)
    else:
        tar.writer.add(written)
    [(found, stream)] = [(e, c.read(1 << 20)) for e, c in read_entries(io.BytesIO(tar.finish()))]
    assert (found.path, found.mode, found.uid, found.gid) == (path.rstrip(b"/"), mode, uid, uid // 2)
    assert found.mtime_ns == mtime // 10**9 * 10**9
    assert (found.link_target, found.rdev, found.xattrs) == (written.link_target, written.rdev, written.xattrs)
    assert stream == (content if kind == stat.S_IFREG else b"")


def test_tarfile_reads_every_type() -> None:
    tar = Tar()
    tar.writer.add(entry(b"d", stat.S_IFDIR, 0o1777, uid=3, gid=4, mtime_ns=5_900_000_000))
    tar.writer.add_bytes(entry(b"d/" + b"f" * 150), b"12345")
    tar.writer.add(entry(b"d/l", stat.S_IFLNK, 0o777, link_target=b"t" * 150))
    tar.writer.add(entry(b"d/null", stat.S_IFCHR, 0o666, rdev=(1, 3)))
    tar.writer.add(entry(b"d/loop", stat.S_IFBLK, 0o660, rdev=(7, 0)))
    tar.writer.add(entry(b"d/p", stat.S_IFIFO))
    folder, file, link, char, block, pipe = tar.members()
    assert (folder.name, folder.type, folder.mode, folder.uid, folder.gid, folder.mtime) == (
        "d",
        tarfile.DIRTYPE,
        0o1777,
        3,
        4,
        5,
    )
    assert (file.name, file.size, link.linkname) == ("d/" + "f" * 150, 5, "t" * 150)
    assert (char.type, char.devmajor, char.devminor) == (tarfile.CHRTYPE, 1, 3)
    assert (block.type, block.devmajor, pipe.type) == (tarfile.BLKTYPE, 7, tarfile.FIFOTYPE)
    assert all(m.uname == m.gname == "" for m in (folder, file, link, char, block, pipe))


@pytest.mark.parametrize(
    "written, extended",
    [
        (entry(b"short"), False),
        (entry(b"a" * 150 + b"/" + b"b" * 100), False),
        (entry(b"\xff\xfe not utf-8"), False),
        (entry(b"f", uid=2_097_151, mtime_ns=5_999_999_999), False),
        (entry(b"a" * 101), True),
        (entry(b"f", uid=2_097_152), True),
        (entry(b"f", mtime_ns=-1), True),
        (entry(b"f", xattrs=(("user.x", b""),)), True),
    ],
)
def test_pax_records_only_where_they_are_needed(written: Entry, extended: bool) -> None:
    tar = Tar()
    tar.writer.add_bytes(written, b"")
    assert (len(tar.finish()) > 3 * 512) == extended


def test_times_are_cut_to_seconds_and_clamped_to_the_epoch() -> None:
    tar = Tar(epoch_s=100)
    tar.writer.add_bytes(entry(b"new", mtime_ns=200 * 10**9), b"")
    tar.writer.add_bytes(entry(b"old", mtime_ns=99_999_999_999), b"")
    assert [member.mtime for member in tar.members()] == [100, 99]


def test_files_of_one_inode_are_links_to_the_first() -> None:
    tar = Tar()
    for path, inode in ((b"a", (1, 7)), (b"b", (1, 7)), (b"other device", (2, 7))):
        tar.writer.add(entry(path, inode=inode, link_count=2))
    tar.writer.add(entry(b"dir", stat.S_IFDIR, inode=(1, 7), link_count=2))
    first, second, other, folder = tar.members()
    assert (first.type, second.type, second.linkname) == (tarfile.REGTYPE, tarfile.LNKTYPE, "a")
    assert (other.type, folder.type) == (tarfile.REGTYPE, tarfile.DIRTYPE)


def test_whiteouts_and_opaque_directories() -> None:
    tar = Tar()
    tar.writer.add_whiteout(b"etc/gone")
    tar.writer.add_opaque(b"var")
    tar.writer.add_opaque(b"")
    assert [(m.name, m.size, m.mtime) for m in tar.members()] == [
        ("etc/.wh.gone", 0, 0),
        ("var/.wh..wh..opq", 0, 0),
        (".wh..wh..opq", 0, 0),
    ]


def test_chunks_are_one_mebibyte_but_for_the_last(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 3_000_001)
    tar = Tar()
    tar.writer.add(entry(b"big", size_bytes=3_000_001), lambda e: os.open(tmp_path / "big", os.O_RDONLY))
    data = tar.finish()
    assert {len(chunk) for chunk in tar.chunks[:-1]} == {1 << 20}
    assert len(tar.chunks[-1]) < 1 << 20
    assert tar.writer.size_bytes == len(data)
    assert next(c.read(1 << 22) for _, c in read_entries(io.BytesIO(data))).count(b"x") > 1 << 19


@pytest.mark.parametrize("actual", [0, 99, 101, 5000])
def test_a_file_that_changed_since_it_was_listed_is_an_error(tmp_path: Path, actual: int) -> None:
    (tmp_path / "f").write_bytes(b"x" * actual)
    with pytest.raises(InputError, match="changed"):
        Tar().writer.add(entry(b"f", size_bytes=100), lambda e: os.open(tmp_path / "f", os.O_RDONLY))


@pytest.mark.parametrize("change", ["grow", "shrink"])
def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path, change: str) -> None:
    size = 3 << 20
    path = tmp_path / "f"
    path.write_bytes(b"x" * size)

    def sink(chunk: memoryview) -> None:
        os.truncate(path, size + 1 if change == "grow" else size >> 1)

    with pytest.raises(InputError, match="changed"):
        TarWriter(sink).add(entry(b"f", size_bytes=size), lambda e: os.open(path, os.O_RDONLY))


def test_a_socket_is_an_error() -> None:
    with pytest.raises(InputError):
        Tar().writer.add(entry(b"s", stat.S_IFSOCK))
