"""FileActions on real directories: what COPY decides is what is there afterwards, and nothing outside is touched."""

from __future__ import annotations

import io
import os
import socket
import stat
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxbuild.archive.archives import is_archive
from sandboxbuild.errors import ContextError, InputError, LimitExceeded, SandboxbuildError
from sandboxbuild.executor.copy import apply_actions
from sandboxbuild.executor.trees import DirectoryTree
from sandboxbuild.fstree.actions import (
    MakeDirectory,
    MakeHardlink,
    MakeNode,
    MakeSymlink,
    Remove,
    SetMetadata,
    WriteBytes,
    WriteFile,
)
from sandboxbuild.fstree.entry import Entry
from sandboxbuild.plan.copying import copy_actions
from sandboxbuild.plan.operations import ContextSource, CopyOp, InlineSource, StageSource

pytestmark = pytest.mark.root
NOW_NS = 1_600_000_000_000_000_000
OLD_NS = 1_500_000_000_123_456_789
CAPABILITY = struct.pack("<5I", 0x02000001, 0x400, 0, 0, 0)  # cap_net_bind_service=ep (linux/capability.h)


class Place:
    """A source and a target directory, and COPY from one to the other."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "source"
        self.root = folder / "root"
        self.outside = folder / "outside"
        for path in (self.source, self.root, self.outside):
            path.mkdir(mode=0o755)

    def copy(self, paths: str, destination: str, *, ids: tuple[int, int] | None = None, **flags: object) -> None:
        op = CopyOp((StageSource(0),), (tuple(paths.split()),), destination, **flags)  # type: ignore[arg-type]
        self.carry_out(op, ids)

    def carry_out(self, op: CopyOp, ids: tuple[int, int] | None = None) -> None:
        source_fd, root_fd = (os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (self.source, self.root))
        try:
            with DirectoryTree(source_fd) as source, DirectoryTree(root_fd) as target:
                actions = copy_actions(
                    op,
                    [source] * len(op.sources),
                    target,
                    owner=ids,
                    now_ns=NOW_NS,
                    is_archive=lambda _, entry: self._is_archive(entry),
                )
            apply_actions(str(self.root), actions, [source_fd] * len(op.sources))
        finally:
            os.close(source_fd)
            os.close(root_fd)

    def _is_archive(self, entry: Entry) -> bool:
        with open(self.source / os.fsdecode(entry.path), "rb") as stream:
            return is_archive(stream.fileno())

    def apply(self, *actions: object) -> None:
        source_fd = os.open(self.source, os.O_RDONLY | os.O_DIRECTORY)
        try:
            apply_actions(str(self.root), actions, [source_fd])  # type: ignore[arg-type]
        finally:
            os.close(source_fd)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    old = os.umask(0o077)  # modes must not depend on it
    try:
        yield Place(tmp_path)
    finally:
        os.umask(old)


def owner(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_modes_owners_and_times_are_those_of_the_source(place: Place) -> None:
    (place.source / "d").mkdir()
    (place.source / "d/f").write_text("content")
    os.symlink("f", place.source / "d/l")
    os.mkfifo(place.source / "d/pipe")
    for name, ids in (("f", (5, 6)), ("l", (7, 8)), ("pipe", (9, 10))):
        os.chown(place.source / "d" / name, *ids, follow_symlinks=False)
    os.chmod(place.source / "d/f", 0o6751)
    os.chmod(place.source / "d/pipe", 0o640)
    for name in ("f", "l", "pipe", ""):
        os.utime(place.source / "d" / name, ns=(1, OLD_NS), follow_symlinks=False)
    place.copy("d", "/made/t")
    target = place.root / "made/t"
    assert (target / "f").read_text() == "content"
    assert [owner(target / name) for name in ("f", "l", "pipe")] == [(5, 6), (7, 8), (9, 10)]
    assert mode(target / "f") == 0o6751
    assert mode(target / "pipe") == 0o640
    assert os.readlink(target / "l") == "f"
    assert {(target / name).lstat().st_mtime_ns for name in ("f", "l", "pipe", "")} == {OLD_NS}
    assert (place.root / "made").stat().st_mtime_ns == NOW_NS
    assert mode(place.root / "made") == 0o755


def test_an_owner_is_given_to_everything_and_setuid_survives_it(place: Place) -> None:
    (place.source / "f").write_text("x")
    os.chmod(place.source / "f", 0o4755)
    place.copy("f", "/x/y", ids=(1000, 1001), owner="1000:1001")
    assert owner(place.root / "x") == owner(place.root / "x/y") == (1000, 1001)
    assert mode(place.root / "x/y") == 0o4755


def test_file_capabilities_survive_an_owner_and_foreign_attributes_do_not(place: Place) -> None:
    path = place.source / "f"
    path.write_text("x")
    os.setxattr(path, "security.capability", CAPABILITY)
    os.setxattr(path, "user.note", b"n")
    os.setxattr(path, "user.sandboxbuild.node", b"c 1 3")
    os.setxattr(path, "user.overlay.opaque", b"y")
    place.copy("f", "/f", ids=(1, 1), owner="1:1")
    target = place.root / "f"
    assert os.getxattr(target, "security.capability") == CAPABILITY
    assert sorted(name for name in os.listxattr(target) if name.startswith("user.")) == ["user.note"]


def test_a_forged_device_stand_in_in_a_context_stays_a_file(place: Place) -> None:
    path = place.source / "f"
    path.write_text("not empty")
    os.setxattr(path, "user.sandboxbuild.node", b"c 1 3")
    place.copy("f", "/f")
    assert (place.root / "f").read_text() == "not empty"


def test_a_replaced_file_is_a_new_inode_and_its_other_names_keep_the_content(place: Place) -> None:
    (place.source / "f").write_text("new")
    (place.root / "one").write_text("old")
    os.link(place.root / "one", place.root / "two")
    place.copy("f", "/two")
    assert (place.root / "one").read_text() == "old"
    assert (place.root / "two").read_text() == "new"


def test_hard_links_of_the_source_are_hard_links_of_the_target(place: Place) -> None:
    (place.source / "d/e").mkdir(parents=True)
    (place.source / "d/one").write_text("same")
    os.link(place.source / "d/one", place.source / "d/e/two")
    (place.root / "t/e").mkdir(parents=True)
    (place.root / "t/one").write_text("in the way")
    place.copy("d", "/t")
    assert (place.root / "t/one").stat().st_ino == (place.root / "t/e/two").stat().st_ino
    assert (place.root / "t/one").stat().st_nlink == 2


def test_a_socket_arrives_as_an_empty_file(place: Place) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        folder = os.open(place.source, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{folder}/sock")
        os.close(folder)
        place.copy(".", "/")
    assert stat.S_ISREG((place.root / "sock").lstat().st_mode)


def test_holes_stay_holes(place: Place) -> None:
    with open(place.source / "f", "wb") as stream:
        stream.truncate(50 << 20)
        stream.seek(20 << 20)
        stream.write(b"middle")
    place.copy("f", "/f")
    status = (place.root / "f").stat()
    assert status.st_size == 50 << 20
    assert status.st_blocks * 512 < 10 << 20
    with open(place.root / "f", "rb") as stream:
        stream.seek(20 << 20)
        assert stream.read(6) == b"middle"


def test_an_existing_directory_keeps_its_mode_and_takes_the_time(place: Place) -> None:
    (place.source / "d").mkdir()
    (place.source / "d/f").write_text("x")
    os.utime(place.source / "d", ns=(1, OLD_NS))
    (place.root / "k").mkdir()
    os.chmod(place.root / "k", 0o1711)
    place.copy("d", "/k")
    assert mode(place.root / "k") == 0o1711
    assert (place.root / "k").stat().st_mtime_ns == OLD_NS


def test_link_puts_a_directory_in_the_place_of_a_link(place: Place) -> None:
    (place.source / "f").write_text("x")
    os.symlink(place.outside, place.root / "current")
    place.copy("f", "/current/", link=True)
    assert (place.root / "current/f").read_text() == "x"
    assert not (place.root / "current").is_symlink()
    assert list(place.outside.iterdir()) == []


@pytest.mark.parametrize("target", ["../../outside", "/outside"])
def test_links_of_the_target_never_lead_out(place: Place, target: str) -> None:
    (place.source / "f").write_text("x")
    os.symlink(target, place.root / "escape")
    place.copy("f", "/escape/")
    assert (place.root / "outside/f").read_text() == "x"
    assert list(place.outside.iterdir()) == []


@pytest.mark.parametrize(
    "action",
    [
        WriteBytes(b"link/f", b"x", 0o644, 0, 0, 1),
        MakeDirectory(b"link/d", 0o755, 0, 0, 1),
        MakeSymlink(b"link/l", b"x", 0, 0, 1),
        MakeNode(b"link/n", stat.S_IFIFO | 0o600, (0, 0), 0, 0, 1),
        MakeHardlink(b"link/h", b"f"),
        SetMetadata(b"link/kept", mode=0o777),
        Remove(b"link/kept"),
    ],
    ids=lambda action: type(action).__name__,
)
def test_no_action_follows_a_link_that_appeared_since_it_was_decided(place: Place, action: object) -> None:
    (place.root / "f").write_text("x")
    (place.outside / "kept").write_text("x")
    os.chmod(place.outside / "kept", 0o600)
    os.symlink(place.outside, place.root / "link")
    with pytest.raises(SandboxbuildError):
        place.apply(action)
    assert [path.name for path in place.outside.iterdir()] == ["kept"]
    assert mode(place.outside / "kept") == 0o600


def test_metadata_of_a_link_is_not_given_to_what_it_points_to(place: Place) -> None:
    (place.outside / "kept").write_text("x")
    os.chmod(place.outside / "kept", 0o600)
    os.symlink(place.outside / "kept", place.root / "link")
    with pytest.raises(SandboxbuildError):
        place.apply(SetMetadata(b"link", mode=0o777, uid=5, gid=5))
    assert mode(place.outside / "kept") == 0o600
    assert owner(place.outside / "kept") == (0, 0)


def test_a_source_that_became_a_link_is_not_read(place: Place) -> None:
    (place.outside / "secret").write_text("s")
    os.symlink(place.outside, place.source / "d")
    entry = Entry(b"d/secret", stat.S_IFREG | 0o644, size_bytes=1)
    with pytest.raises(SandboxbuildError):
        place.apply(WriteFile(b"f", 0, entry, 0o644, 0, 0, 1))
    assert not (place.root / "f").exists()


def test_a_source_that_became_a_fifo_does_not_block(place: Place) -> None:
    os.mkfifo(place.source / "f")
    with pytest.raises(ContextError, match="changed"):
        place.apply(WriteFile(b"f", 0, Entry(b"f", stat.S_IFREG | 0o644), 0o644, 0, 0, 1))


def test_a_source_that_changed_since_it_was_listed_is_an_error(place: Place) -> None:
    (place.source / "f").write_text("longer than it was")
    with pytest.raises(ContextError, match="/f changed"):
        place.apply(WriteFile(b"f", 0, Entry(b"f", stat.S_IFREG | 0o644, size_bytes=3), 0o644, 0, 0, 1))


def test_a_directory_is_not_replaced_by_a_file(place: Place) -> None:
    (place.root / "d").mkdir()
    for action in (WriteBytes(b"d", b"", 0o644, 0, 0, 1), MakeSymlink(b"d", b"x", 0, 0, 1)):
        with pytest.raises(InputError, match="/d"):
            place.apply(action)
    assert (place.root / "d").is_dir()


def test_inline_files_have_their_mode_whatever_the_umask(place: Place) -> None:
    place.carry_out(CopyOp((InlineSource((("one", b"1"),)),), ((),), "/d/", mode="0664"))
    assert mode(place.root / "d/one") == 0o664
    assert mode(place.root / "d") == 0o664
    assert (place.root / "d/one").stat().st_mtime_ns == NOW_NS


def test_devices_and_whiteout_numbers_are_made_or_stood_in_for(place: Place) -> None:
    place.apply(
        MakeNode(b"null", stat.S_IFCHR | 0o666, (1, 3), 0, 0, 1), MakeNode(b"zero", stat.S_IFCHR | 0o600, (0, 0), 0, 0, 1)
    )
    fd = os.open(place.root, os.O_RDONLY | os.O_DIRECTORY)
    with DirectoryTree(fd) as tree:
        null, zero = tree.entry(b"null"), tree.entry(b"zero")
    os.close(fd)
    assert null is not None
    assert zero is not None
    assert (null.rdev, zero.rdev) == ((1, 3), (0, 0))
    assert stat.S_ISREG((place.root / "zero").lstat().st_mode)


def archive(*members: tuple[str, dict[str, object]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as writer:
        for name, fields in members:
            member = tarfile.TarInfo(name)
            for field, value in fields.items():
                setattr(member, field, value)
            content = b"x" if member.isreg() else b""
            member.size = len(content)
            writer.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_add_unpacks_an_archive_over_what_exists(place: Place) -> None:
    (place.source / "a").write_bytes(
        archive(
            ("./", {"type": tarfile.DIRTYPE, "mode": 0o700}),
            ("opt", {"type": tarfile.DIRTYPE, "mode": 0o700, "uid": 9}),
            ("opt/f", {"uid": 5, "gid": 6}),
        )
    )
    (place.root / "t/opt").mkdir(parents=True)
    os.chmod(place.root / "t", 0o755)
    place.copy("a", "/t", is_add=True)
    assert mode(place.root / "t") == 0o755
    assert (mode(place.root / "t/opt"), owner(place.root / "t/opt")) == (0o700, (9, 0))
    assert owner(place.root / "t/opt/f") == (5, 6)


def test_the_owner_of_an_add_is_given_to_all_of_an_archive(place: Place) -> None:
    (place.source / "a").write_bytes(archive(("d/f", {"uid": 5})))
    place.carry_out(CopyOp((ContextSource(),), (("a",),), "/t/", owner="7:8", is_add=True), (7, 8))
    assert {owner(place.root / path) for path in ("t", "t/d", "t/d/f")} == {(7, 8)}


@pytest.mark.parametrize("name", ["../out", "d/../../out", "/out"])
def test_names_of_an_archive_stop_at_its_destination(place: Place, name: str) -> None:
    (place.source / "a").write_bytes(archive(("in", {}), (name, {})))
    place.copy("a", "/t/u/", is_add=True)
    assert sorted(os.listdir(place.root / "t/u")) == ["in", "out"]
    assert os.listdir(place.root / "t") == ["u"]


def test_an_archive_cannot_leave_its_destination(place: Place) -> None:
    link = {"type": tarfile.SYMTYPE, "linkname": "../../outside"}
    (place.source / "a").write_bytes(archive(("link", link), ("link/out", {})))
    with pytest.raises(InputError):
        place.copy("a", "/t/", is_add=True)
    assert list(place.outside.iterdir()) == []


def test_a_broken_archive_is_copied(place: Place) -> None:
    (place.source / "a.tar.gz").write_bytes(archive(("f", {}))[:30])
    place.copy("a.tar.gz", "/t/", is_add=True)
    assert (place.root / "t/a.tar.gz").stat().st_size == 30


def test_a_tree_looks_through_no_link(place: Place) -> None:
    (place.outside / "secret").write_text("s")
    os.symlink(place.outside, place.source / "d")
    fd = os.open(place.source, os.O_RDONLY | os.O_DIRECTORY)
    with DirectoryTree(fd) as tree:
        entry = tree.entry(b"d")
        assert entry is not None
        assert entry.is_symlink
        assert tree.entry(b"d/secret") is None
        assert tree.children(b"d") == ()
        assert tree.entry(b"missing/x") is None
    os.close(fd)


def test_a_tree_has_a_greatest_number_of_names(place: Place) -> None:
    for number in range(5):
        (place.source / str(number)).touch()
    fd = os.open(place.source, os.O_RDONLY | os.O_DIRECTORY)
    with DirectoryTree(fd, max_entries=4) as tree, pytest.raises(LimitExceeded):
        tree.children(b"")
    os.close(fd)
