"""Layers written and read back: trees, whiteouts in both forms, owners, limits, errors, memory; GNU tar and umoci as judges."""

import hashlib
import io
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandboxbuild.archive.archives import is_archive, unpack_archive
from sandboxbuild.archive.compress import compressor
from sandboxbuild.archive.member import ArchiveLimits
from sandboxbuild.archive.pipeline import ReadLayer, WrittenLayer, read_layer, write_layer
from sandboxbuild.archive.scan import scan_tree
from sandboxbuild.errors import InputError, IntegrityError, IsolationError, LimitExceeded, SandboxbuildError
from sandboxbuild.fstree.changes import Changes, Delete, Upsert
from sandboxbuild.fstree.entry import Entry
from sandboxbuild.oci.descriptor import DOCKER_LAYER_GZIP, OCI_LAYER, OCI_LAYER_GZIP, Descriptor

pytestmark = pytest.mark.root
CAPABILITY = b"\x01\x00\x00\x02\x00\x04" + bytes(14)


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def tar_of(*members: tuple[tarfile.TarInfo, bytes] | tarfile.TarInfo, format_: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format_) as tar:
        for member in members:
            found, content = member if isinstance(member, tuple) else (member, b"")
            found.size = len(content)
            tar.addfile(found, io.BytesIO(content))
    return buffer.getvalue()


def info(name: str, type_: bytes = tarfile.REGTYPE, mode: int = 0o644, **fields: object) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.mode, found.mtime = type_, mode, 1000
    for field, value in fields.items():
        setattr(found, field, value)
    return found


def folder(name: str, mode: int = 0o755, **fields: object) -> tarfile.TarInfo:
    return info(name, tarfile.DIRTYPE, mode, **fields)


def file(name: str, content: bytes = b"x", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    return info(name, **fields), content  # type: ignore[arg-type]


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def unpack(
    data: bytes, target: Path, *, media_type: str = OCI_LAYER, diff_id: str | None = None, **options: object
) -> ReadLayer:
    target.mkdir(exist_ok=True)
    descriptor = Descriptor(media_type, digest_of(data), len(data))
    return read_layer(io.BytesIO(data), descriptor, diff_id, str(target), **options)  # type: ignore[arg-type]


def changes_of(root: Path) -> Changes:
    return Changes(str(root), (Upsert(entry) for entry in scan_tree(str(root)) if entry.path))


def pack(changes: Changes, **options: object) -> tuple[WrittenLayer, bytes]:
    data = bytearray()
    written = write_layer(changes, data.extend, **options)  # type: ignore[arg-type]
    return written, bytes(data)


def picture(root: Path) -> list[tuple[object, ...]]:
    """All of a tree that a layer keeps: links by the names that share an inode."""
    entries = list(scan_tree(str(root)))
    names: dict[tuple[int, int], list[bytes]] = {}
    for entry in entries:
        names.setdefault(entry.inode, []).append(entry.path)
    rows = []
    for e in entries:
        content = (root / os.fsdecode(e.path)).read_bytes() if e.is_file and e.size_bytes < 1 << 20 else b""
        seconds = e.mtime_ns // 10**9
        rows.append(
            (e.path, e.mode, e.uid, e.gid, e.size_bytes, seconds, e.link_target, e.rdev, e.xattrs, names[e.inode], content)
        )
    return rows


def make_tree(root: Path) -> None:
    """Something of everything."""
    root.mkdir()
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("root:x:0:0\n")
    (root / "bin").mkdir(0o711)
    (root / "bin/su").write_bytes(b"x" * 2_500_000)
    os.chown(root / "bin/su", 0, 42)
    os.chmod(root / "bin/su", 0o6755)
    os.setxattr(root / "bin/su", "security.capability", CAPABILITY)
    os.setxattr(root / "etc", "user.note", b"\0\xff\n=")
    os.link(root / "bin/su", root / "bin/zu")
    os.symlink("/etc/passwd", root / "link")
    os.chown(root / "link", 7, 8, follow_symlinks=False)
    os.mkfifo(root / "pipe", 0o600)
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "loop", stat.S_IFBLK | 0o660, os.makedev(7, 300))
    deep = root / ("d" * 200) / ("e" * 200)
    deep.mkdir(parents=True)
    (deep / ("f" * 200)).write_text("deep")
    (root / os.fsdecode(b"\xff\xfe odd\n")).write_text("")
    (root / "tmp").mkdir()
    os.chmod(root / "tmp", 0o1777)
    for current, folders, files in os.walk(root, topdown=False):
        for name in folders + files:
            os.utime(os.path.join(current, name), (12345, 67890), follow_symlinks=False)
    os.utime(root, (0, 0))


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_a_tree_comes_back_as_it_was(tmp_path: Path, compression: str) -> None:
    make_tree(tmp_path / "a")
    written, data = pack(changes_of(tmp_path / "a"), compression=compression)
    assert (written.digest, written.size_bytes) == (digest_of(data), len(data))
    found = unpack(data, tmp_path / "b", media_type=written.media_type, diff_id=written.diff_id)
    assert (found.diff_id, found.size_bytes, found.entries) == (written.diff_id, written.diff_size_bytes, written.entries)
    assert picture(tmp_path / "a") == picture(tmp_path / "b")
    again, _ = pack(changes_of(tmp_path / "b"), compression=compression)
    assert again == written


def test_gnu_tar_reads_what_was_written_and_what_it_writes_is_read(tmp_path: Path) -> None:
    make_tree(tmp_path / "a")
    _, data = pack(changes_of(tmp_path / "a"))
    (tmp_path / "b").mkdir()
    command = ["tar", "-xz", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-p", "-C", str(tmp_path / "b")]
    subprocess.run(command, input=data, check=True)
    os.utime(tmp_path / "b", (0, 0))
    assert picture(tmp_path / "b") == picture(tmp_path / "a")
    for format_ in ("gnu", "pax"):
        command = ["tar", "-c", f"--format={format_}", "--numeric-owner", "-C", str(tmp_path / "a"), "."]
        command += ["--xattrs", "--xattrs-include=*"] if format_ == "pax" else []
        unpack(subprocess.run(command, check=True, capture_output=True).stdout, tmp_path / format_)
        wanted = [row[:8] if format_ == "gnu" else row for row in picture(tmp_path / "a")]
        assert [row[: len(wanted[0])] for row in picture(tmp_path / format_)] == wanted


@pytest.mark.parametrize("version", ["", "0.0", "0.1", "1.0"])
def test_sparse_files_of_gnu_tar_stay_sparse(tmp_path: Path, version: str) -> None:
    source = tmp_path / "sparse"
    with source.open("wb") as out:
        for number in range(60):
            out.seek(number * 100_000)
            out.write(b"data%d" % number)
        out.truncate(50 << 20)
    options = ["--format=pax", f"--sparse-version={version}"] if version else ["--format=gnu"]
    data = subprocess.run(["tar", "-cS", *options, "-C", str(tmp_path), "sparse"], check=True, capture_output=True).stdout
    assert len(data) < 1 << 20
    unpack(data, tmp_path / "out")
    assert (tmp_path / "out/sparse").read_bytes() == source.read_bytes()
    assert (tmp_path / "out/sparse").stat().st_blocks * 512 < 5 << 20


def test_a_layer_becomes_a_lower_directory_of_an_overlay(tmp_path: Path) -> None:
    unpack(tar_of(folder("d"), file("d/.wh.gone"), folder("o"), file("o/kept"), file("o/.wh..wh..opq")), tmp_path / "l")
    gone = os.lstat(tmp_path / "l/d/gone")
    assert stat.S_ISCHR(gone.st_mode) and gone.st_rdev == 0
    assert os.getxattr(tmp_path / "l/o", "user.overlay.opaque") == b"y"
    assert os.listdir(tmp_path / "l/o") == ["kept"]


PLAIN_MEMBERS = (
    folder("a"),
    file("a/b"),
    info("a/c", tarfile.SYMTYPE, linkname="b"),
    info("a/d", tarfile.LNKTYPE, linkname="a/b"),
)


@pytest.mark.parametrize(
    ("more", "is_plain"),
    [
        ((), True),
        ((file("a/.wh.gone"),), False),
        ((file("a/.wh..wh..opq"),), False),
        ((file("f", pax_headers={"SCHILY.xattr.user.note": "x"}),), False),
        ((info("null", tarfile.CHRTYPE, devmajor=1, devminor=3),), False),
        ((info("pipe", tarfile.FIFOTYPE),), False),
        ((file("x"), folder("x")), False),
    ],
    ids=["nothing else", "whiteout", "opaque", "attribute", "device", "fifo", "folder for a file"],
)
def test_a_layer_that_any_filesystem_holds_is_plain(tmp_path: Path, more: tuple[Any, ...], is_plain: bool) -> None:
    assert unpack(tar_of(*PLAIN_MEMBERS, *more), tmp_path / "layer").is_plain is is_plain


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_whiteout_is_about_lower_layers_wherever_it_stands(tmp_path: Path, order: tuple[int, int]) -> None:
    parts = [[file(".wh.d")], [folder("d"), file("d/new")]]
    data = tar_of(*parts[order[0]], *parts[order[1]])
    unpack(data, tmp_path / "l")
    assert os.listdir(tmp_path / "l/d") == ["new"]
    assert os.getxattr(tmp_path / "l/d", "user.overlay.opaque") == b"y"
    (tmp_path / "tree/d/sub").mkdir(parents=True)
    (tmp_path / "tree/d/old").write_text("")
    unpack(data, tmp_path / "tree", whiteouts="apply")
    assert os.listdir(tmp_path / "tree/d") == ["new"]


def test_applying_whiteouts_removes_what_lower_layers_had(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for path in ("d/a", "d/b/c", "o/x/y", "o/z", "kept"):
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text("old")
    data = tar_of(
        file("d/.wh.b"), folder("o/x"), file("o/x/new"), file("o/.wh..wh..opq"), file("absent/.wh.x"), file(".wh.nothing")
    )
    unpack(data, tree, whiteouts="apply")
    assert sorted(str(path.relative_to(tree)) for path in tree.rglob("*")) == ["d", "d/a", "kept", "o", "o/x", "o/x/new"]


def test_parents_that_a_layer_does_not_list_look_as_below(tmp_path: Path) -> None:
    unpack(tar_of(folder("srv", 0o1770, uid=5, gid=6, mtime=777), folder("other", 0o700)), tmp_path / "low")
    unpack(tar_of(file("other")), tmp_path / "middle")
    os.chmod(tmp_path / "low", 0o711)
    parents = [str(tmp_path / "low"), str(tmp_path / "middle")]
    unpack(tar_of(file("srv/f"), file("other/f"), file("new/f")), tmp_path / "top", parents=parents)
    srv, other = os.stat(tmp_path / "top/srv"), os.stat(tmp_path / "top/other")
    assert (srv.st_mode & 0o7777, srv.st_uid, srv.st_gid, srv.st_mtime) == (0o1770, 5, 6, 777)
    assert (other.st_mode & 0o7777, other.st_uid) == (0o755, 0)
    assert os.stat(tmp_path / "top/new").st_mode & 0o7777 == 0o755
    assert os.stat(tmp_path / "top").st_mode & 0o7777 == 0o755  # the middle layer's root is the merged one


def test_the_roots_own_entry_counts(tmp_path: Path) -> None:
    unpack(tar_of(folder("./", 0o711, uid=3, mtime=99), file("./f")), tmp_path / "l")
    root = os.stat(tmp_path / "l")
    assert (root.st_mode & 0o7777, root.st_uid, root.st_mtime) == (0o711, 3, 99)


def test_later_entries_replace_earlier_ones_of_any_type(tmp_path: Path) -> None:
    data = tar_of(
        folder("a"), file("a/x"), file("a"), file("b"), folder("b"), file("b/y"), info("c", tarfile.SYMTYPE, linkname="b"),
        file("c"),
        folder("d"), info("d", tarfile.SYMTYPE, linkname="b"), file("e", b"1"), file("e", b"22"), info("f", tarfile.FIFOTYPE),
        info("f", tarfile.FIFOTYPE, 0o600),
    )  # fmt: skip
    unpack(data, tmp_path / "l")
    assert (tmp_path / "l/a").is_file() and (tmp_path / "l/c").is_file() and not (tmp_path / "l/c").is_symlink()
    assert os.listdir(tmp_path / "l/b") == ["y"]
    assert os.readlink(tmp_path / "l/d") == "b"
    assert (tmp_path / "l/e").read_bytes() == b"22"
    assert os.getxattr(tmp_path / "l/b", "user.overlay.opaque") == b"y"  # a file stood between it and lower directories


def test_directories_keep_their_times_and_modes_whatever_comes_after(tmp_path: Path) -> None:
    data = tar_of(folder("ro", 0o555, mtime=5), file("ro/f"), folder("ro/sub", 0o000, mtime=6), file("ro/sub/g"), file("ro/z"))
    unpack(data, tmp_path / "l")
    outer, inner = os.stat(tmp_path / "l/ro"), os.stat(tmp_path / "l/ro/sub")
    assert (outer.st_mode & 0o7777, outer.st_mtime, inner.st_mode & 0o7777, inner.st_mtime) == (0o555, 5, 0, 6)


def test_setgid_directories_pass_nothing_on(tmp_path: Path) -> None:
    unpack(tar_of(folder("s", 0o2755, gid=50), folder("s/d"), file("s/f")), tmp_path / "l")
    assert [os.stat(tmp_path / "l" / p).st_gid for p in ("s", "s/d", "s/f")] == [50, 0, 0]
    assert os.stat(tmp_path / "l/s/d").st_mode & 0o7777 == 0o755


def test_names_as_merged_usr_packages_have_them(tmp_path: Path) -> None:
    """A parent that is a link of the same layer is followed inside the layer."""
    link = info("lib", tarfile.SYMTYPE, linkname="/usr/../usr/lib")
    unpack(
        tar_of(folder("usr"), folder("usr/lib"), link, file("lib/a/b"), info("lib/c", tarfile.LNKTYPE, linkname="lib/a/b")),
        tmp_path / "l",
    )
    assert (tmp_path / "l/usr/lib/a/b").read_text() == "x"
    assert os.stat(tmp_path / "l/usr/lib/c").st_nlink == 2
    unpack(tar_of(link, file("lib/a")), tmp_path / "m", parents=[str(tmp_path / "l")])
    assert (tmp_path / "m/usr/lib/a").read_text() == "x"


def test_old_overlay_and_our_own_attributes_are_not_believed(tmp_path: Path) -> None:
    records = {"SCHILY.xattr." + name: "y" for name in (
        "user.overlay.opaque", "trusted.overlay.opaque", "user.overlay.redirect", "user.sandboxbuild.node", "security.selinux",
        "user.kept",
    )}  # fmt: skip
    unpack(
        tar_of(
            folder("d", pax_headers=records),
            file("f", b"", pax_headers={**records, "SCHILY.xattr.user.sandboxbuild.node": "c 1 3"}),
        ),
        tmp_path / "l",
    )
    assert os.listxattr(tmp_path / "l/d") == os.listxattr(tmp_path / "l/f") == ["user.kept"]


def test_a_device_that_cannot_be_made_is_a_stand_in_that_scans_as_the_device(tmp_path: Path) -> None:
    program = """
import os, sys, io, hashlib
sys.path.insert(0, sys.argv[3])
os.unshare = getattr(os, "unshare", None)
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
uid, gid = os.getuid(), os.getgid()
assert libc.unshare(0x10000000) == 0
open("/proc/self/uid_map", "w").write(f"0 {uid} 1")
open("/proc/self/setgroups", "w").write("deny")
open("/proc/self/gid_map", "w").write(f"0 {gid} 1")
from sandboxbuild.archive.pipeline import *
from sandboxbuild.archive.scan import scan_tree
data = open(sys.argv[1], "rb").read()
d = Descriptor("application/vnd.oci.image.layer.v1.tar", "sha256:" + hashlib.sha256(data).hexdigest(), len(data))
read_layer(io.BytesIO(data), d, None, sys.argv[2])
rows = [(e.path.decode(), oct(e.mode), e.rdev, e.mtime_ns) for e in scan_tree(sys.argv[2]) if e.path]
out = bytearray()
w = write_layer(Changes(sys.argv[2], (Upsert(e) for e in scan_tree(sys.argv[2]) if e.path)), out.extend, compression="none")
print(rows, "|", w.diff_id)
"""
    program = program.replace(
        "from sandboxbuild.archive.scan", "from sandboxbuild.fstree.changes import Upsert\nfrom sandboxbuild.archive.scan"
    )
    data = tar_of(
        info("loop", tarfile.BLKTYPE, 0o660, devmajor=7, devminor=1),
        info("null", tarfile.CHRTYPE, 0o666, devmajor=1, devminor=3),
    )
    (tmp_path / "layer.tar").write_bytes(data)
    (tmp_path / "l").mkdir()
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", program, str(tmp_path / "layer.tar"), str(tmp_path / "l"), root]
    rows, _, diff_id = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().partition(" | ")
    assert rows == "[('loop', '0o60660', (7, 1), 1000000000000), ('null', '0o20666', (1, 3), 1000000000000)]"
    assert stat.S_ISREG(os.lstat(tmp_path / "l/null").st_mode)
    unpack(data, tmp_path / "real")
    assert stat.S_ISCHR(os.lstat(tmp_path / "real/null").st_mode)
    written, _ = pack(changes_of(tmp_path / "real"), compression="none")
    assert written.diff_id == diff_id


def test_whiteouts_are_written_as_the_image_spec_has_them(tmp_path: Path) -> None:
    entries = [Delete(b"etc/gone"), Upsert(Entry(b"var", stat.S_IFDIR | 0o755), opaque=True)]
    _, data = pack(Changes(str(tmp_path), entries), compression="none")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == ["etc/.wh.gone", "var", "var/.wh..wh..opq"]


def test_a_file_with_a_whiteouts_name_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / ".wh.x").write_text("")
    with pytest.raises(InputError, match=r"\.wh\.x"):
        pack(changes_of(tmp_path))


def test_wrong_bytes_sizes_and_diff_ids_are_integrity_errors(tmp_path: Path) -> None:
    packer = compressor("gzip")
    data = packer.write(tar_of(file("f", os.urandom(300_000)))) + packer.flush()
    good = Descriptor(OCI_LAYER_GZIP, digest_of(data), len(data))
    flipped = data[:1000] + bytes([data[1000] ^ 1]) + data[1001:]
    cases = [
        (flipped, good, None), (data[:-1], good, None), (data + b"\0", good, None), (b"", good, None),
        (data, good._replace(digest=digest_of(b"")), None), (data, good._replace(size_bytes=len(data) - 1), None),
        (data, good._replace(size_bytes=len(data) + 1), None), (data, good, digest_of(b"")),
        (data, good._replace(media_type="application/octet-stream"), None),
    ]  # fmt: skip
    for number, (blob, descriptor, diff_id) in enumerate(cases):
        target = tmp_path / str(number)
        target.mkdir()
        with pytest.raises(IntegrityError) as caught:
            read_layer(io.BytesIO(blob), descriptor, diff_id, str(target))
        assert good.digest[:20] in str(caught.value) or descriptor.digest[:20] in str(caught.value)
    unpack(data, tmp_path / "good", media_type=DOCKER_LAYER_GZIP)


def test_an_error_of_the_source_is_the_error(tmp_path: Path) -> None:
    class Broken(io.BytesIO):
        def read(self, n: int | None = -1, /) -> bytes:
            raise LimitExceeded("the line went dead")

    with pytest.raises(LimitExceeded, match="dead"):
        read_layer(Broken(), Descriptor(OCI_LAYER, digest_of(b""), 10), None, str(tmp_path))


def test_an_error_of_the_sink_or_the_walk_ends_the_writing(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(os.urandom(20 << 20))

    def sink(data: memoryview) -> None:
        raise LimitExceeded("full")

    with pytest.raises(LimitExceeded):
        write_layer(changes_of(tmp_path), sink)

    def walk() -> Iterator[Upsert]:
        yield from changes_of(tmp_path).changes  # type: ignore[misc]
        raise SandboxbuildError("vanished")

    with pytest.raises(SandboxbuildError, match="vanished"):
        pack(Changes(str(tmp_path), walk()))


def test_a_full_disk_is_a_limit(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(small)], check=True)
    try:
        with pytest.raises(LimitExceeded, match="big"):
            unpack(tar_of(file("big", bytes(3 << 20))), small)
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_an_owner_that_does_not_exist_names_entry_and_id(tmp_path: Path) -> None:
    for uid in (0xFFFFFFFF, 1 << 32, 1 << 40):
        with pytest.raises(IsolationError, match=rf"etc/shadow belongs to {uid}"):
            unpack(tar_of(folder("etc"), file("etc/shadow", uid=uid)), tmp_path / f"l{uid}")


def test_limits_hold_while_unpacking(tmp_path: Path) -> None:
    limits = ArchiveLimits(entries=3, total_bytes=1 << 20, depth=4)
    for number, data in enumerate([
        tar_of(*[file(str(n)) for n in range(5)]), tar_of(file("f", bytes(2 << 20))), tar_of(file("a/b/c/d/e")),
    ]):  # fmt: skip
        with pytest.raises(LimitExceeded):
            unpack(data, tmp_path / str(number), limits=limits)


def test_progress_counts_compressed_bytes(tmp_path: Path) -> None:
    seen: list[int] = []
    data = tar_of(file("f", bytes(1 << 20)))
    unpack(data, tmp_path / "l", on_progress=seen.append)
    assert seen == sorted(seen) and seen[-1] == len(data)


def add(data: bytes, root: Path, destination: bytes = b"", **options: object) -> int:
    source = root.parent / "archive"
    source.write_bytes(data)
    source_fd, root_fd = os.open(source, os.O_RDONLY), os.open(root, os.O_RDONLY)
    try:
        return unpack_archive(source_fd, root_fd, destination, **options)  # type: ignore[arg-type]
    finally:
        os.close(source_fd)
        os.close(root_fd)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_add_unpacks_every_compression(tmp_path: Path, mode: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        tar.addfile(info("f", uid=3), io.BytesIO())
    (tmp_path / "root/dest").mkdir(parents=True)
    assert add(buffer.getvalue(), tmp_path / "root", b"dest") == 1
    assert os.stat(tmp_path / "root/dest/f").st_uid == 3
    fd = os.open(tmp_path / "archive", os.O_RDONLY)
    assert is_archive(fd)
    os.close(fd)


def test_add_follows_links_of_the_image_and_changes_directories_that_exist(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "data").mkdir(parents=True)
    (root / "opt").mkdir()
    (root / "current").symlink_to("/data")
    os.chmod(root, 0o711)
    add(
        tar_of(folder("./", 0o700), file("current/f"), folder("opt", 0o700, uid=9), file(".wh.opt"), file("opt/.wh..wh..opq")),
        root,
    )
    assert (root / "data/f").read_text() == "x"
    assert (os.stat(root / "opt").st_mode & 0o7777, os.stat(root / "opt").st_uid) == (0o700, 9)
    assert os.listdir(root / "opt") == []
    assert os.stat(root).st_mode & 0o7777 == 0o711


def test_add_with_an_owner_gives_it_to_everything(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True)
    add(
        tar_of(folder("a", uid=1), file("a/f", uid=2), file("b/c/g"), info("l", tarfile.SYMTYPE, linkname="a")),
        root,
        b"d",
        uid=7,
        gid=8,
    )
    for path in ("a", "a/f", "b", "b/c", "b/c/g", "l"):
        status = os.lstat(root / "d" / path)
        assert (status.st_uid, status.st_gid) == (7, 8)


@pytest.mark.parametrize(
    "data", [b"", b"text", b"\x1f\x8b\x08 no gzip", bytes(2048), tar_of(file("f"))[:300], os.urandom(5000)]
)
def test_what_is_no_archive_is_a_file(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "f").write_bytes(data)
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    assert not is_archive(fd)
    os.close(fd)


def test_umoci_unpacks_our_layer_to_the_same_tree(tmp_path: Path) -> None:
    if not shutil.which("umoci"):
        pytest.skip("umoci is not here")
    make_tree(tmp_path / "a")
    _, data = pack(changes_of(tmp_path / "a"), compression="none")
    (tmp_path / "layer.tar").write_bytes(data)
    image = str(tmp_path / "oci")
    for command in (
        ["init", "--layout", image],
        ["new", "--image", f"{image}:x"],
        ["raw", "add-layer", "--image", f"{image}:x", str(tmp_path / "layer.tar")],
    ):
        subprocess.run(["umoci", *command], check=True, capture_output=True)
    subprocess.run(["umoci", "raw", "unpack", "--image", f"{image}:x", str(tmp_path / "b")], check=True, capture_output=True)
    assert [row[:5] + row[6:] for row in picture(tmp_path / "b")][1:] == [row[:5] + row[6:] for row in picture(tmp_path / "a")][
        1:
    ]


def test_memory_does_not_depend_on_the_size_of_a_layer(tmp_path: Path) -> None:
    program = """
import sys, os, hashlib
sys.path.insert(0, sys.argv[1])
from sandboxbuild.archive.pipeline import *
from sandboxbuild.archive.scan import scan_tree
from sandboxbuild.fstree.changes import Upsert
with open(sys.argv[3], "wb") as out:
    w = write_layer(Changes(sys.argv[2], (Upsert(e) for e in scan_tree(sys.argv[2]) if e.path)), out.write)
with open(sys.argv[3], "rb", buffering=0) as source:
    read_layer(source, Descriptor(w.media_type, w.digest, w.size_bytes), w.diff_id, sys.argv[4])
print(next(int(line.split()[1]) >> 10 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with (tmp_path / "a/big").open("wb") as out:
        for _ in range(200):
            out.write(os.urandom(1 << 19) + bytes(1 << 19))
    command = [
        sys.executable,
        "-c",
        program,
        str(Path(__file__).parents[2]),
        str(tmp_path / "a"),
        str(tmp_path / "l"),
        str(tmp_path / "b"),
    ]
    assert int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) < 60
