"""Both snapshotters give the same layer, byte for byte, for every kind of change; and what they commit is that layer."""

import ctypes
import os
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sandboxbuild.archive.pipeline import WrittenLayer, write_layer
from sandboxbuild.archive.scan import scan_tree
from sandboxbuild.errors import LimitExceeded, SandboxbuildError
from sandboxbuild.fstree.changes import Changes, Delete, Upsert
from sandboxbuild.snapshotters import Snapshotter, Workspace
from sandboxbuild.snapshotters.overlay import OverlaySnapshotter
from sandboxbuild.snapshotters.walk import WalkSnapshotter

pytestmark = pytest.mark.root
EPOCH = 1_000_000_000
OLD = 900_000_000
SNAPSHOTTERS: list[Snapshotter] = [OverlaySnapshotter(), WalkSnapshotter()]
both = pytest.mark.parametrize("snapshotter", SNAPSHOTTERS, ids=lambda s: s.name)


def age(root: str) -> None:
    """Give everything one old time, so that what a step touches is seen."""
    for folder, directories, files in os.walk(root, topdown=False):
        for name in directories + files:
            os.utime(os.path.join(folder, name), (OLD, OLD), follow_symlinks=False)
    os.utime(root, (OLD, OLD))


def write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def make_base(root: str) -> None:
    for name in ("etc", "usr", "usr/lib", "var", "var/cache", "var/cache/apt", "opt", "opt/app", "empty", "swap", "tmp"):
        os.mkdir(f"{root}/{name}")
    os.chmod(f"{root}/tmp", 0o1777)
    for name in ("etc/passwd", "etc/hosts", "usr/lib/a", "usr/lib/b", "var/cache/apt/1", "var/cache/apt/2", "opt/app/x"):
        write(f"{root}/{name}", name)
    write(f"{root}/swap/one", "1")
    write(f"{root}/swap/two", "2")
    os.link(f"{root}/usr/lib/a", f"{root}/usr/lib/a-too")
    os.symlink("usr/lib", f"{root}/lib")
    os.mkfifo(f"{root}/var/pipe")
    os.chmod(f"{root}/usr/lib/b", 0o4755)
    os.setxattr(f"{root}/etc/hosts", "user.note", b"x")
    age(root)


def base_layer(snapshotter: Snapshotter, folder: str, fill: Callable[[str], None] = make_base) -> str:
    target = f"{folder}/base-{snapshotter.name}"
    with snapshotter.workspace([], folder) as workspace:
        fill(workspace.root)
        workspace.commit(target)
    return target


def layer_of(workspace: Workspace) -> WrittenLayer:
    return write_layer(workspace.changes(), lambda data: None, epoch_s=EPOCH)


def said(workspace: Workspace) -> list[str]:
    """The changes in a line each, without the directories above them."""
    lines = []
    for change in workspace.changes().changes:
        lines.append("-" + change.path.decode() if isinstance(change, Delete) else "+" + change.entry.path.decode())
    return lines


def rewrite_same_size_and_time(path: str, text: str) -> None:
    before = os.lstat(path)
    write(path, text)
    os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))


def replace_by_directory(root: str) -> None:
    os.unlink(f"{root}/etc/passwd")
    os.mkdir(f"{root}/etc/passwd")
    write(f"{root}/etc/passwd/inside", "x")


def replace_by_file(root: str) -> None:
    os.unlink(f"{root}/opt/app/x")
    os.rmdir(f"{root}/opt/app")
    write(f"{root}/opt/app", "a file")


def recreate_directory(root: str) -> None:
    for name in ("1", "2"):
        os.unlink(f"{root}/var/cache/apt/{name}")
    os.rmdir(f"{root}/var/cache/apt")
    os.mkdir(f"{root}/var/cache/apt")
    write(f"{root}/var/cache/apt/2", "new")


def open_without_writing(root: str) -> None:
    os.close(os.open(f"{root}/etc/passwd", os.O_RDWR))


def copy_directory_away(root: str) -> None:
    """What mv does when rename gives EXDEV."""
    os.system(f"cp -a {root}/opt {root}/opt2 && rm -r {root}/opt")


def special_bits(root: str) -> None:
    write(f"{root}/suid", "x")
    os.chown(f"{root}/suid", 12, 34)
    os.chmod(f"{root}/suid", 0o6711)
    os.setxattr(f"{root}/suid", "user.mine", b"\0\1")
    capability = b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
    write(f"{root}/ping", "x")
    os.setxattr(f"{root}/ping", "security.capability", capability)


def many_names(root: str) -> None:
    name = "n" * 200
    os.makedirs(f"{root}/{name}/{name}")
    write(f"{root}/{name}/{name}/{name}", "deep")
    os.symlink("t" * 300, f"{root}/{name}/link")
    with open(os.fsencode(root) + b"/bytes-\xff\xfe \n", "w") as file:
        file.write("odd")


def touch_root(root: str) -> None:
    os.chmod(root, 0o711)


def link_old_and_new(root: str) -> None:
    os.link(f"{root}/etc/passwd", f"{root}/etc/also-passwd")


def one_name_of_several(root: str) -> None:
    with open(f"{root}/usr/lib/a", "a") as file:
        file.write("more")


def chmod_all(root: str) -> None:
    os.system(f"chmod -R g+w {root}/usr")


CHANGES: dict[str, tuple[Callable[[str], object], list[str] | None]] = {
    "nothing": (lambda root: None, []),
    "read": (lambda root: Path(f"{root}/etc/passwd").read_text(), []),
    "new file": (lambda root: write(f"{root}/etc/new", "x"), ["+etc", "+etc/new"]),
    "append": (lambda root: write(f"{root}/usr/lib/b", "longer than it was"), ["+usr", "+usr/lib", "+usr/lib/b"]),
    "same size and time": (
        lambda root: rewrite_same_size_and_time(f"{root}/etc/passwd", "ETC/PASSWD"),
        ["+etc", "+etc/passwd"],
    ),
    "same content and time": (lambda root: rewrite_same_size_and_time(f"{root}/etc/passwd", "etc/passwd"), []),
    "touch": (lambda root: os.utime(f"{root}/etc/passwd", (5, 5)), ["+etc", "+etc/passwd"]),
    "open for write": (open_without_writing, []),
    "chmod to the same": (lambda root: os.chmod(f"{root}/etc/passwd", 0o644), []),
    "chmod": (lambda root: os.chmod(f"{root}/usr/lib", 0o711), ["+usr", "+usr/lib"]),
    "chown": (lambda root: os.chown(f"{root}/etc/hosts", 7, 8), ["+etc", "+etc/hosts"]),
    "delete file": (lambda root: os.unlink(f"{root}/usr/lib/a"), ["+usr", "+usr/lib", "-usr/lib/a"]),
    "delete tree": (lambda root: os.system(f"rm -r {root}/var"), ["-var"]),
    "delete all in directory": (
        lambda root: os.system(f"rm {root}/var/cache/apt/*"),
        ["+var", "+var/cache", "+var/cache/apt", "-var/cache/apt/1", "-var/cache/apt/2"],
    ),
    "recreate directory": (
        recreate_directory,
        ["+var", "+var/cache", "+var/cache/apt", "-var/cache/apt/1", "+var/cache/apt/2"],
    ),
    "file becomes directory": (replace_by_directory, ["+etc", "+etc/passwd", "+etc/passwd/inside"]),
    "directory becomes file": (replace_by_file, ["+opt", "+opt/app"]),
    "come and gone": (lambda root: (write(f"{root}/tmp/x", ""), os.unlink(f"{root}/tmp/x")), ["+tmp"]),
    "rename file": (lambda root: os.rename(f"{root}/etc/hosts", f"{root}/etc/guests"), ["+etc", "+etc/guests", "-etc/hosts"]),
    "exchange": (
        lambda root: os.system(f"cd {root}/swap; mv one x; mv two one; mv x two"),
        ["+swap", "+swap/one", "+swap/two"],
    ),
    "copy directory away": (copy_directory_away, ["-opt", "+opt2", "+opt2/app", "+opt2/app/x"]),
    "link old and new": (link_old_and_new, ["+etc", "+etc/also-passwd", "+etc/passwd"]),
    "one name of several": (one_name_of_several, ["+usr", "+usr/lib", "+usr/lib/a"]),
    "chmod all": (chmod_all, None),
    "links": (
        lambda root: (write(f"{root}/tmp/1", "x"), os.link(f"{root}/tmp/1", f"{root}/tmp/2")),
        ["+tmp", "+tmp/1", "+tmp/2"],
    ),
    "symlink retargeted": (lambda root: (os.unlink(f"{root}/lib"), os.symlink("opt", f"{root}/lib")), ["+lib"]),
    "xattr": (lambda root: os.setxattr(f"{root}/etc/hosts", "user.note", b"y"), ["+etc", "+etc/hosts"]),
    "xattr gone": (lambda root: os.removexattr(f"{root}/etc/hosts", "user.note"), ["+etc", "+etc/hosts"]),
    "special bits": (special_bits, ["+ping", "+suid"]),
    "names": (many_names, None),
    "fifo": (lambda root: os.mkfifo(f"{root}/tmp/p"), ["+tmp", "+tmp/p"]),
    "device": (lambda root: os.mknod(f"{root}/tmp/null", stat.S_IFCHR | 0o666, os.makedev(1, 3)), ["+tmp", "+tmp/null"]),
    "sparse": (lambda root: os.truncate(os.open(f"{root}/tmp/s", os.O_CREAT | os.O_WRONLY), 1 << 20), ["+tmp", "+tmp/s"]),
    "root's mode": (touch_root, ["+"]),
}


def apply(name: str, root: str) -> None:
    umask = os.umask(0o022)
    try:
        CHANGES[name][0](root)
    finally:
        os.umask(umask)


@both
@pytest.mark.parametrize("name", [name for name, (_, expected) in CHANGES.items() if expected is not None])
def test_a_step_says_exactly_what_it_changed(snapshotter: Snapshotter, name: str, tmp_path: Path) -> None:
    base = base_layer(snapshotter, str(tmp_path))
    with snapshotter.workspace([base], str(tmp_path)) as workspace:
        apply(name, workspace.root)
        assert said(workspace) == CHANGES[name][1]


@pytest.mark.parametrize("name", CHANGES)
def test_both_snapshotters_write_the_same_layer(name: str, tmp_path: Path) -> None:
    digests = []
    for snapshotter in SNAPSHOTTERS:
        base = base_layer(snapshotter, str(tmp_path))
        with snapshotter.workspace([base], str(tmp_path)) as workspace:
            apply(name, workspace.root)
            digests.append(layer_of(workspace))
    assert digests[0] == digests[1]


def test_all_changes_at_once_in_three_layers_give_the_same_bytes_and_the_same_tree(tmp_path: Path) -> None:
    """Each step works on what the one before committed."""
    steps = [
        ["new file", "delete all in directory", "links", "special bits", "chmod", "delete file"],
        ["recreate directory", "file becomes directory", "copy directory away", "names", "rename file"],
        ["exchange", "symlink retargeted", "sparse", "chmod all"],
    ]
    digests: dict[str, list[WrittenLayer]] = {}
    trees: dict[str, list[tuple[object, ...]]] = {}
    for snapshotter in SNAPSHOTTERS:
        parents = [base_layer(snapshotter, str(tmp_path))]
        digests[snapshotter.name] = []
        for number, step in enumerate(steps):
            with snapshotter.workspace(parents, str(tmp_path)) as workspace:
                if step[0] == "recreate directory":
                    for name in ("1", "2"):
                        write(f"{workspace.root}/var/cache/apt/{name}", "again")
                for name in step:
                    apply(name, workspace.root)
                digests[snapshotter.name].append(layer_of(workspace))
                target = f"{tmp_path}/{snapshotter.name}-{number}"
                workspace.commit(target)
                parents.append(target)
        with snapshotter.workspace(parents, str(tmp_path)) as workspace:
            assert list(workspace.changes().changes) == []
            trees[snapshotter.name] = [
                (e.path, e.mode, e.uid, e.gid, e.size_bytes, e.link_target, e.xattrs, min(e.mtime_ns, EPOCH * 10**9))
                for e in scan_tree(workspace.root)
            ]
    assert digests["overlay"] == digests["walk"]
    assert trees["overlay"] == trees["walk"]


@both
def test_a_name_of_an_old_file_and_its_new_one_are_one_file_in_the_layer(snapshotter: Snapshotter, tmp_path: Path) -> None:
    base = base_layer(snapshotter, str(tmp_path))
    with snapshotter.workspace([base], str(tmp_path)) as workspace:
        link_old_and_new(workspace.root)
        found = [c.entry for c in workspace.changes().changes if isinstance(c, Upsert) and c.entry.is_file]
    assert {entry.path for entry in found} == {b"etc/passwd", b"etc/also-passwd"}
    assert len({entry.inode for entry in found}) == 1


@both
def test_a_socket_left_behind_is_nothing(snapshotter: Snapshotter, tmp_path: Path) -> None:
    import socket

    base = base_layer(snapshotter, str(tmp_path))
    with snapshotter.workspace([base], str(tmp_path)) as workspace, socket.socket(socket.AF_UNIX) as server:
        os.unlink(f"{workspace.root}/etc/passwd")
        here = os.getcwd()
        os.chdir(workspace.root)
        server.bind("etc/passwd")
        os.chdir(here)
        assert said(workspace) == ["+etc", "-etc/passwd"]


@both
def test_a_workspace_leaves_nothing_behind(snapshotter: Snapshotter, tmp_path: Path) -> None:
    base = base_layer(snapshotter, str(tmp_path))
    with pytest.raises(RuntimeError), snapshotter.workspace([base], str(tmp_path)) as workspace:
        os.mkdir(f"{workspace.root}/locked", 0o000)
        write(f"{workspace.root}/locked/x", "")
        raise RuntimeError
    assert os.listdir(tmp_path) == [os.path.basename(base)]
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


@both
def test_parents_are_never_written(snapshotter: Snapshotter, tmp_path: Path) -> None:
    base = base_layer(snapshotter, str(tmp_path))
    before = [entry._replace(ctime_ns=0) for entry in scan_tree(base)]
    with snapshotter.workspace([base], str(tmp_path)) as workspace:
        os.system(f"chmod -R 777 {workspace.root}; rm -r {workspace.root}/usr; echo x > {workspace.root}/etc/passwd")
        workspace.commit(f"{tmp_path}/next")
    assert [entry._replace(ctime_ns=0) for entry in scan_tree(base)] == before


@both
def test_a_path_that_vanishes_is_a_failure_and_no_deletion(snapshotter: Snapshotter, tmp_path: Path) -> None:
    base = base_layer(snapshotter, str(tmp_path))
    with snapshotter.workspace([base], str(tmp_path)) as workspace:
        for name in ("a", "b"):
            os.mkdir(f"{workspace.root}/tmp/{name}")
        changes = workspace.changes()
        iterator = iter(changes.changes)
        next(iterator)
        next(iterator)
        os.rmdir(f"{changes.root}/tmp/b")
        with pytest.raises(SandboxbuildError):
            list(iterator)


@both
def test_files_that_xattrs_of_overlay_mark_stay_files(snapshotter: Snapshotter, tmp_path: Path) -> None:
    """A step that knows overlay's attributes can't make a layer's directories opaque."""

    def fill(root: str) -> None:
        os.mkdir(f"{root}/d")
        write(f"{root}/d/kept", "x")

    base = base_layer(snapshotter, str(tmp_path), fill)
    with snapshotter.workspace([base], str(tmp_path)) as workspace:
        try:
            os.setxattr(f"{workspace.root}/d", "user.overlay.opaque", b"y")
        except OSError:
            pytest.skip("overlay refuses its own attributes here")
        assert said(workspace) == []
        assert all(not c.opaque for c in workspace.changes().changes if isinstance(c, Upsert))


def test_no_attribute_of_overlay_gets_into_a_layer_that_walk_commits(tmp_path: Path) -> None:
    walk = WalkSnapshotter()
    with walk.workspace([], str(tmp_path)) as workspace:
        write(f"{workspace.root}/f", "x")
        os.setxattr(f"{workspace.root}/f", "user.overlay.redirect", b"/etc")
        os.mkdir(f"{workspace.root}/d")
        os.setxattr(f"{workspace.root}/d", "user.overlay.opaque", b"y")
        workspace.commit(f"{tmp_path}/layer")
    assert os.listxattr(f"{tmp_path}/layer/f") == os.listxattr(f"{tmp_path}/layer/d") == []


@both
def test_a_commit_to_another_filesystem_is_the_same_layer(snapshotter: Snapshotter, tmp_path: Path) -> None:
    base = base_layer(snapshotter, str(tmp_path))
    names = ["links", "special bits", "delete all in directory", "file becomes directory", "fifo", "device"]
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        pictures = []
        for target in (f"{tmp_path}/here", f"{elsewhere}/there"):
            with snapshotter.workspace([base], str(tmp_path)) as workspace:
                for name in names:
                    apply(name, workspace.root)
                workspace.commit(target)
            with WalkSnapshotter().workspace([base, target], str(tmp_path)) as workspace:
                pictures.append(
                    [
                        (e.path, e.mode, e.uid, e.gid, e.size_bytes, e.link_target, e.rdev, e.xattrs)
                        for e in scan_tree(workspace.root)
                    ]
                )
        assert os.stat(f"{elsewhere}/there/tmp/1").st_nlink == 2
    assert pictures[0] == pictures[1]


def in_user_namespace(work: Callable[[], str]) -> str:
    """Run `work` as root of a user namespace with the ids 0 to 65535, and return what it returns."""
    libc = ctypes.CDLL(None, use_errno=True)
    ready, mapped, result = os.pipe(), os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            assert libc.unshare(0x10000000 | 0x00020000) == 0
            os.write(ready[1], b"x")
            os.read(mapped[0], 1)
            os.setgroups([])
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            os.write(result[1], work().encode())
        finally:
            os._exit(0)
    os.close(result[1])
    os.read(ready[0], 1)
    for kind in ("uid", "gid"):
        Path(f"/proc/{child}/{kind}_map").write_text(f"0 {0x70000000} 65536")
    os.write(mapped[1], b"x")
    with os.fdopen(result[0]) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    for fd in (*ready, *mapped):
        os.close(fd)
    return text


@both
def test_a_user_namespace_gives_the_layer_that_root_gives(snapshotter: Snapshotter) -> None:
    """Capabilities are stored there with the namespace's root, ids with an offset; neither shows in the layer."""
    digests = []
    for run in (lambda work: work(), in_user_namespace):
        with tempfile.TemporaryDirectory() as folder:
            if run is in_user_namespace:
                os.chown(folder, 0x70000000, 0x70000000)

            def work(folder: str = folder) -> str:
                base = base_layer(snapshotter, folder)
                with snapshotter.workspace([base], folder) as workspace:
                    for name in (
                        "links",
                        "special bits",
                        "delete all in directory",
                        "chown",
                        "xattr",
                        "fifo",
                        "names",
                        "chmod all",
                    ):
                        apply(name, workspace.root)
                    return str(layer_of(workspace))

            digests.append(run(work))
    assert digests[0] == digests[1] != ""


def test_walk_sees_a_change_within_the_clock_tick_of_the_copy(tmp_path: Path) -> None:
    walk = WalkSnapshotter()
    base = base_layer(walk, str(tmp_path))
    for _ in range(20):
        with walk.workspace([base], str(tmp_path)) as workspace:
            rewrite_same_size_and_time(f"{workspace.root}/etc/passwd", "ETC/PASSWD")
            assert said(workspace) == ["+etc", "+etc/passwd"]


@both
def test_a_tree_as_deep_as_is_allowed_is_a_layer(snapshotter: Snapshotter, tmp_path: Path) -> None:
    with snapshotter.workspace([], str(tmp_path)) as workspace:
        os.makedirs(workspace.root + "/d" * 510)
        write(workspace.root + "/d" * 510 + "/f", "x")
        assert layer_of(workspace).entries == 511
        workspace.commit(f"{tmp_path}/layer")
    with snapshotter.workspace([f"{tmp_path}/layer"], str(tmp_path)) as workspace:
        os.unlink(workspace.root + "/d" * 510 + "/f")
        assert layer_of(workspace).entries == 511
        os.makedirs(workspace.root + "/d" * 600)
        with pytest.raises(LimitExceeded):
            said(workspace)


def test_a_hundred_layers_make_one_tree(tmp_path: Path) -> None:
    overlay = OverlaySnapshotter()
    parents: list[str] = []
    started = time.monotonic()
    for number in range(100):
        with overlay.workspace(parents, str(tmp_path)) as workspace:
            write(f"{workspace.root}/{number}", "x")
            if number > 10:
                os.unlink(f"{workspace.root}/{number - 10}")
            workspace.commit(f"{tmp_path}/l{number}")
        parents.append(f"{tmp_path}/l{number}")
    with overlay.workspace(parents, str(tmp_path)) as workspace:
        assert sorted(map(int, os.listdir(workspace.root))) == [0, *range(90, 100)]
    assert time.monotonic() - started < 60


def test_changes_root_is_where_the_content_lies(tmp_path: Path) -> None:
    for snapshotter in SNAPSHOTTERS:
        with snapshotter.workspace([], str(tmp_path)) as workspace:
            write(f"{workspace.root}/f", "content")
            changes: Changes = workspace.changes()
            assert [c.entry.path for c in changes.changes if isinstance(c, Upsert)] == [b"f"]
            assert Path(changes.root, "f").read_text() == "content"
