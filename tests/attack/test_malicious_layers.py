"""Layers and archives that try to get out of their root, or to take more than their share: each is refused, or harmless.

The oracle is a folder of canaries beside the root: it is the same after each try, and nothing else appeared there.
"""

import base64
import gzip
import hashlib
import io
import os
import stat
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from backports import zstd

from sandboxbuild.archive import directories
from sandboxbuild.archive.archives import unpack_archive
from sandboxbuild.archive.member import ArchiveLimits
from sandboxbuild.archive.pipeline import read_layer
from sandboxbuild.errors import IntegrityError, LimitExceeded, SandboxbuildError
from sandboxbuild.oci.descriptor import OCI_LAYER, Descriptor
from tests.support.profiles import runtime_or_skip
from tests.support.sandboxes import Lab

pytestmark = pytest.mark.root
Member = tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]


class Ground:
    """A root to unpack into, and canaries outside it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a" / "root"
        self.root.mkdir(parents=True)
        self.outside = folder / "canaries"
        self.outside.mkdir(0o755)
        (self.outside / "secret").write_text("canary")
        os.chmod(self.outside / "secret", 0o600)
        (self.outside / "sub").mkdir()
        self._folder = folder
        self._before = self._picture()

    def _picture(self) -> list[tuple[object, ...]]:
        rows: list[tuple[object, ...]] = []
        for current, folders, files in os.walk(self._folder):
            if current == str(self.root):
                folders.clear()
                continue
            for name in [*folders, *files]:
                path = os.path.join(current, name)
                status = os.lstat(path)
                if path != str(self.root):
                    rows.append((path, status.st_mode, status.st_uid, status.st_nlink, status.st_mtime_ns, status.st_ctime_ns))
        return sorted(rows)

    def check(self) -> None:
        assert self._picture() == self._before
        assert (self.outside / "secret").read_text() == "canary"


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    made = Ground(tmp_path)
    yield made
    made.check()


def info(name: str, type_: bytes = tarfile.REGTYPE, mode: int = 0o777, **fields: object) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.mode, found.mtime = type_, mode, 1000
    for field, value in fields.items():
        setattr(found, field, value)
    return found


def folder(name: str) -> Member:
    return info(name, tarfile.DIRTYPE)


def file(name: str) -> Member:
    return info(name), b"pwned"


def link(name: str, target: str) -> Member:
    return info(name, tarfile.SYMTYPE, linkname=target)


def hard(name: str, target: str) -> Member:
    return info(name, tarfile.LNKTYPE, linkname=target)


def tar_of(*members: Member) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member in members:
            found, content = member if isinstance(member, tuple) else (member, b"")
            found.size = len(content)
            tar.addfile(found, io.BytesIO(content))
    return buffer.getvalue()


def as_layer(root: Path, data: bytes, whiteouts: str = "overlay", limits: ArchiveLimits | None = None) -> None:
    descriptor = Descriptor(OCI_LAYER, "sha256:" + hashlib.sha256(data).hexdigest(), len(data))
    read_layer(io.BytesIO(data), descriptor, None, str(root), whiteouts=whiteouts, limits=limits)


def applied(root: Path, data: bytes) -> None:
    as_layer(root, data, "apply")


def added(root: Path, data: bytes, place: bytes = b"", *, clamps: bool = True) -> None:
    """As ADD unpacks an archive; without `clamps` as a context's is unpacked."""
    source = os.memfd_create("archive")
    os.write(source, data)
    root_fd = os.open(root, os.O_RDONLY)
    try:
        unpack_archive(source, root_fd, place, clamps=clamps)
    finally:
        os.close(source)
        os.close(root_fd)


def added_below(root: Path, data: bytes) -> None:
    (root / "dest").mkdir(exist_ok=True)
    added(root, data, b"dest")


def as_context(root: Path, data: bytes) -> None:
    added(root, data, clamps=False)


Unpack = Callable[[Path, bytes], None]
every_way = pytest.mark.parametrize("unpack", [as_layer, applied, added, added_below, as_context], ids=lambda f: f.__name__)
UP = "../../canaries"

REFUSED: dict[str, Callable[[Ground], list[Member]]] = {
    "through an absolute link": lambda g: [link("l", str(g.outside)), file("l/new")],
    "through a relative link": lambda g: [link("l", UP), file("l/new")],
    "over a file through a link": lambda g: [link("l", str(g.outside)), file("l/secret")],
    "directory through a link": lambda g: [link("l", str(g.outside)), folder("l/sub")],
    "through two links": lambda g: [link("x", str(g.outside)), link("y", "x"), file("y/new")],
    "through a link of a link": lambda g: [folder("d"), link("d/x", "../../../canaries"), link("y", "d/x"), file("y/new")],
    "through proc's links": lambda g: [link("l", "/proc/self/root/" + str(g.outside)), file("l/new")],
    "through proc's descriptors": lambda g: [link("l", "/proc/self/cwd"), file("l/new")],
    "links in a circle": lambda g: [link("x", "y"), link("y", "x"), file("x/new")],
    "hard link up": lambda g: [hard("h", f"{UP}/secret")],
    "hard link to an absolute name": lambda g: [hard("h", str(g.outside / "secret"))],
    "hard link through a link": lambda g: [link("l", str(g.outside)), hard("h", "l/secret")],
    "hard link into a link": lambda g: [link("l", str(g.outside)), file("f"), hard("l/h", "f")],
    "hard link to a directory": lambda g: [folder("d"), hard("h", "d")],
    "hard link to the root": lambda g: [hard("h", "/")],
    "symlink below a link": lambda g: [link("l", str(g.outside)), link("l/new", "x")],
    "device below a link": lambda g: [link("l", str(g.outside)), info("l/new", tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "root as a link": lambda g: [link("./", str(g.outside))],
    "root as a link and then a file": lambda g: [link(".", str(g.outside)), file("new")],
    "root as a file": lambda g: [file("./.")],
    "root as a device": lambda g: [info("/", tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "below a file": lambda g: [file("f"), file("f/new")],
    "device of an impossible number": lambda g: [info("d", tarfile.CHRTYPE, devmajor=0o7777777, devminor=1)],
    "name with a zero byte": lambda g: [info("x", pax_headers={"path": "a\0/../../canaries/new"})],
}

# An image's layers have no such names; in an archive that is added `..` stops at the root, as it does for BuildKit.
CLIMBING: dict[str, Callable[[Ground], list[Member]]] = {
    "dot dot": lambda g: [file(f"{UP}/new")],
    "dot dot in the middle": lambda g: [folder("d"), file(f"d/../{UP}/new")],
    "dot dot directory": lambda g: [folder(UP)],
}

HARMLESS: dict[str, Callable[[Ground], list[Member]]] = {
    "absolute name": lambda g: [file(f"{g.outside}/new")],
    "dangling link": lambda g: [link("l", str(g.outside / "secret"))],
    "file over a link": lambda g: [link("l", str(g.outside / "secret")), file("l")],
    "directory over a link": lambda g: [link("l", str(g.outside)), folder("l"), file("l/secret")],
    "mode and owner of a link": lambda g: [
        info("l", tarfile.SYMTYPE, 0o777, linkname=str(g.outside / "secret"), uid=5),
        hard("h", "l"),
        info("h", tarfile.SYMTYPE, 0o4777, linkname=str(g.outside / "secret"), uid=6),
    ],
    "hard link to a link, then a file over it": lambda g: [link("l", str(g.outside / "secret")), hard("h", "l"), file("h")],
    "device over a link": lambda g: [link("l", str(g.outside / "secret")), info("l", tarfile.FIFOTYPE)],
    "dot dot inside": lambda g: [folder("d"), file("d/../new"), file("d/./x//y")],
    "link that climbs over the root": lambda g: [folder("canaries"), link("l", "../../../../canaries"), file("l/new")],
    "directory that was, time set later": lambda g: [folder("d"), folder("d/sub"), link("d", str(g.outside))],
    "directory that was, with children": lambda g: [folder("d/sub/x"), link("d", str(g.outside)), folder("e")],
    "replaced in the middle": lambda g: [folder("d"), file("d/f"), link("d", "e"), folder("e"), file("d/new")],
    "hard link to itself": lambda g: [file("f"), hard("f", "f"), hard("./f", "/f")],
}


@pytest.mark.promise(8, "entries of archives and layers stay in their root")
@every_way
@pytest.mark.parametrize("name", REFUSED)
def test_what_would_leave_the_root_is_an_error(ground: Ground, unpack: Unpack, name: str) -> None:
    with pytest.raises(SandboxbuildError):
        unpack(ground.root, tar_of(*REFUSED[name](ground)))


@pytest.mark.promise(8, "entries of archives and layers stay in their root")
@pytest.mark.parametrize("name", CLIMBING)
def test_names_that_climb_are_errors_but_stop_at_the_root_of_what_add_unpacks(ground: Ground, name: str) -> None:
    for unpack in (as_layer, applied, as_context):
        with pytest.raises(SandboxbuildError):
            unpack(ground.root, tar_of(*CLIMBING[name](ground)))
    for unpack in (added, added_below):
        unpack(ground.root, tar_of(*CLIMBING[name](ground)))


@pytest.mark.promise(8, "entries of archives and layers stay in their root")
@every_way
@pytest.mark.parametrize("name", HARMLESS)
def test_what_only_looks_like_it_stays_inside(ground: Ground, unpack: Unpack, name: str) -> None:
    if name == "link that climbs over the root":
        (ground.root / "canaries").mkdir()
    unpack(ground.root, tar_of(*HARMLESS[name](ground)))


WHITEOUTS: dict[str, Callable[[Ground], list[Member]]] = {
    "of what is up": lambda g: [file(f"{UP}/.wh.secret")],
    "of dot dot": lambda g: [file(".wh...")],
    "of dot": lambda g: [file("d/.wh..")],
    "of nothing": lambda g: [file(".wh.")],
    "below a whiteout": lambda g: [file(".wh.a/b")],
}


@pytest.mark.promise(8, "entries of archives and layers stay in their root")
@pytest.mark.parametrize("unpack", [as_layer, applied], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", WHITEOUTS)
def test_whiteouts_that_name_nothing_inside_are_errors(ground: Ground, unpack: Unpack, name: str) -> None:
    with pytest.raises(SandboxbuildError):
        unpack(ground.root, tar_of(*WHITEOUTS[name](ground)))


@pytest.mark.promise(8, "entries of archives and layers stay in their root")
@pytest.mark.parametrize("unpack", [as_layer, applied], ids=lambda f: f.__name__)
@pytest.mark.parametrize("victim", [".wh.secret", ".wh..wh..opq", ".wh.sub"])
@pytest.mark.parametrize("through", ["absolute", "relative"])
def test_whiteouts_do_not_follow_links_out(ground: Ground, unpack: Unpack, victim: str, through: str) -> None:
    target = str(ground.outside) if through == "absolute" else UP
    with suppress(SandboxbuildError):
        unpack(ground.root, tar_of(link("l", target), file(f"l/{victim}")))


@pytest.mark.promise(8, "entries of archives and layers stay in their root")
@pytest.mark.parametrize("name", ["l", "d/l"])
def test_a_whiteout_of_a_link_removes_the_link(ground: Ground, name: str) -> None:
    (ground.root / "d").mkdir()
    (ground.root / name).symlink_to(ground.outside)
    applied(ground.root, tar_of(file(os.path.join(os.path.dirname(name), ".wh.l"))))
    assert not (ground.root / name).is_symlink()


@pytest.mark.promise(8, "entries of archives and layers stay in their root")
def test_opaque_directories_that_hold_links_are_emptied_without_following_them(ground: Ground) -> None:
    (ground.root / "d/e").mkdir(parents=True)
    (ground.root / "d/e/l").symlink_to(ground.outside)
    applied(ground.root, tar_of(file("d/.wh..wh..opq")))
    assert os.listdir(ground.root / "d") == []


def test_a_tar_device_0_0_is_no_whiteout(ground: Ground) -> None:
    as_layer(ground.root, tar_of(info("passwd", tarfile.CHRTYPE, devmajor=0, devminor=0)))
    assert stat.S_ISREG(os.lstat(ground.root / "passwd").st_mode)


def test_a_hard_link_to_a_whiteout_is_an_error(ground: Ground) -> None:
    with pytest.raises(IntegrityError):
        as_layer(ground.root, tar_of(file(".wh.a"), hard("b", "a")))


@pytest.mark.promise(8, "directories that are swapped for links lead nowhere")
@pytest.mark.parametrize("unpack", [as_layer, added], ids=lambda f: f.__name__)
def test_a_link_that_is_swapped_while_a_layer_unpacks_leads_nowhere(ground: Ground, unpack: Unpack) -> None:
    """Ten thousand entries below a directory that another process exchanges with a link to the canaries."""
    (ground.root / "d").mkdir()
    (ground.root / "l").symlink_to(ground.outside)
    stop = threading.Event()

    def swap() -> None:
        directory, link, aside = (os.path.join(ground.root, name) for name in ("d", "l", "x"))
        while not stop.is_set():
            with suppress(OSError):
                os.rename(directory, aside)
                os.rename(link, directory)
                os.rename(directory, link)
                os.rename(aside, directory)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        end = time.monotonic() + 3
        data = tar_of(
            *[member for n in range(200) for member in (file(f"d/secret{n}"), file("d/secret"), folder("d/sub"), folder("d"))]
        )
        while time.monotonic() < end:
            with suppress(SandboxbuildError):
                unpack(ground.root, data)
    finally:
        stop.set()
        thread.join()


@pytest.mark.promise(9, "archives and layers have limits of bytes, entries and depth")
def test_a_bomb_in_every_compression_stops_at_the_limit_of_bytes(ground: Ground) -> None:
    limits = ArchiveLimits(total_bytes=32 << 20)
    plain = tar_of((info("zeros"), bytes(64 << 20)))
    for data in (gzip.compress(plain), zstd.compress(plain), plain):
        with pytest.raises(LimitExceeded):
            as_layer(ground.root, data, limits=limits)
        for left in ground.root.iterdir():
            left.unlink()


@pytest.mark.promise(9, "archives and layers have limits of bytes, entries and depth")
def test_holes_count_as_bytes(ground: Ground) -> None:
    huge = info("f", pax_headers={"GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 50)})
    with pytest.raises(LimitExceeded):
        as_layer(ground.root, tar_of(huge))


@pytest.mark.promise(9, "archives and layers have limits of bytes, entries and depth")
def test_a_million_entries_stop_at_the_limit_of_entries(ground: Ground) -> None:
    with pytest.raises(LimitExceeded):
        as_layer(ground.root, tar_of(*[folder(f"d{n}") for n in range(300)]), limits=ArchiveLimits(entries=200))


@pytest.mark.promise(9, "archives and layers have limits of bytes, entries and depth")
def test_endless_directories_stop_at_the_limit_of_depth(ground: Ground) -> None:
    with pytest.raises(LimitExceeded):
        as_layer(ground.root, tar_of(file("/".join("d" * 2000))))


def test_directories_as_deep_as_is_allowed_can_be_unpacked_and_replaced(ground: Ground) -> None:
    deep = "/".join("d" * 500)
    as_layer(ground.root, tar_of(file(deep + "/f"), file("d")))
    assert (ground.root / "d").is_file()


@pytest.mark.promise(9, "archives and layers have limits of bytes, entries and depth")
def test_a_layer_of_ten_thousand_links_in_a_row_ends_soon(ground: Ground) -> None:
    members = [link(f"l{n}", f"l{n + 1}") for n in range(2000)]
    with pytest.raises(SandboxbuildError):
        as_layer(ground.root, tar_of(*members, file("l0/f")))


@pytest.mark.promise(9, "archives and layers have limits of bytes, entries and depth")
def test_links_that_multiply_end_soon(ground: Ground) -> None:
    members = [link(f"l{n}", "/".join([f"l{n + 1}"] * 10)) for n in range(30)]
    started = time.monotonic()
    with pytest.raises(SandboxbuildError):
        as_layer(ground.root, tar_of(*members, file("l0/f")))
    assert time.monotonic() - started < 5


@pytest.mark.promise(8, "entries of archives and layers stay in their root")
def test_set_id_bits_and_owners_go_to_new_files_alone(ground: Ground) -> None:
    (ground.root / "f").write_text("")
    (ground.root / "other").mkdir()
    os.link(ground.root / "f", ground.root / "other/name")
    added(ground.root, tar_of((info("f", mode=0o6755, uid=9), b"x")))
    kept = os.lstat(ground.root / "other/name")
    assert (kept.st_mode & 0o7777, kept.st_uid, kept.st_size) == (0o644, 0, 0)


# What each archive above does to a sandbox's store, beside which it is unpacked: `cases` comes first, (way, name, tar).
IN_A_SANDBOX = """
import base64, hashlib, io, os, shutil
from sandboxbuild.archive.archives import unpack_archive
from sandboxbuild.archive.pipeline import read_layer
from sandboxbuild.errors import SandboxbuildError
from sandboxbuild.oci.descriptor import OCI_LAYER, Descriptor

top = "/sandboxbuild/store/ground"
outside = top + "/canaries"
root = top + "/a/root"
os.makedirs(outside + "/sub")
os.chmod(outside, 0o755)
with open(outside + "/secret", "w") as stream:
    stream.write("canary")

def picture():
    rows = []
    for folder, folders, names in os.walk(outside):
        for path in (folder, *(os.path.join(folder, name) for name in names)):
            status = os.lstat(path)
            rows.append((path, status.st_mode, status.st_uid, status.st_nlink, status.st_mtime_ns, status.st_ctime_ns))
    return rows, open(outside + "/secret").read()

def unpack(way, data):
    if way == "added":
        source = os.memfd_create("archive")
        os.write(source, data)
        unpack_archive(source, os.open(root, os.O_RDONLY), b"")
    else:
        descriptor = Descriptor(OCI_LAYER, "sha256:" + hashlib.sha256(data).hexdigest(), len(data))
        read_layer(io.BytesIO(data), descriptor, None, root, whiteouts=way)

before = picture()
value = []
for way, name, data in cases:
    os.makedirs(root)
    try:
        unpack(way, base64.b64decode(data))
    except SandboxbuildError:
        pass
    if picture() != before:
        value.append(f"{way}: {name}")
        before = picture()
    shutil.rmtree(top + "/a")
"""


@pytest.mark.promise(8, "entries of archives and layers stay in their root")
@pytest.mark.parametrize("profile", ["plain", "runc", "gvisor"])
def test_no_archive_changes_what_lies_beside_its_root_in_a_sandbox(tmp_path: Path, profile: str) -> None:
    runtime = runtime_or_skip({"plain": "namespaces", "gvisor": "runsc"}.get(profile, profile))
    (tmp_path / "ground").mkdir()
    inside = Ground(tmp_path / "ground")
    inside.outside = Path("/sandboxbuild/store/ground/canaries")
    cases = [
        (way, name, base64.b64encode(tar_of(*made(inside))).decode())
        for name, made in {**REFUSED, **CLIMBING, **HARMLESS, **WHITEOUTS}.items()
        for way in ("overlay", "apply", "added")
    ]
    lab = Lab(tmp_path, runtime=runtime)
    try:
        assert lab.python(f"cases = {cases!r}\n" + IN_A_SANDBOX) == []
    finally:
        lab.close()


@pytest.mark.without_defence(8, "entries of archives and layers stay in their root")
@every_way
def test_where_links_are_followed_entries_are_written_outside(
    tmp_path: Path, unpack: Unpack, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "outside").mkdir()
    monkeypatch.setattr(directories, "_FLAGS", directories._FLAGS & ~os.O_NOFOLLOW)
    unpack(tmp_path / "root", tar_of(link("l", str(tmp_path / "outside")), file("l/new")))
    assert (tmp_path / "outside" / "new").read_bytes() == b"pwned"


@pytest.mark.without_defence(9, "archives and layers have limits of bytes, entries and depth")
def test_without_their_limits_bombs_are_unpacked(ground: Ground) -> None:
    endless = ArchiveLimits(total_bytes=1 << 60, entries=1 << 60)
    data = tar_of((info("zeros"), bytes(64 << 20)), *[folder(f"d{n}") for n in range(300)])
    as_layer(ground.root, gzip.compress(data), limits=endless)
    assert (ground.root / "zeros").stat().st_size == 64 << 20
    assert len(list(ground.root.iterdir())) == 301
