"""Overlay, bind and pivot on the real kernel, each in a mount namespace of a child."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sandboxbuild.system import libc, mounts

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
CLONE_NEWNS = 0x20000


def in_namespace(action: Callable[[], object]) -> str:
    """What `action` returns, as text, from a child with a private mount namespace."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            libc.unshare(CLONE_NEWNS)
            mounts.make_private()
            text = str(action())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(write_end, text.encode())
        os._exit(0)
    os.close(write_end)
    text = os.read(read_end, 60_000).decode()
    os.close(read_end)
    os.waitpid(pid, 0)
    return text


def folder(path: Path, **contents: str) -> str:
    path.mkdir()
    for name, text in contents.items():
        (path / name).write_text(text)
    return str(path)


@pytest.mark.parametrize("old_kernel", [False, True])
@pytest.mark.parametrize("prefix", ["layer", "l:a,y\\er" + "x" * 230])
def test_upper_lowers_are_seen_first(tmp_path: Path, old_kernel: bool, prefix: str) -> None:
    deep = tmp_path / prefix
    deep.mkdir()
    lowers = [folder(deep / f"{n}", f=f"layer {n}", **{f"only{n}": "x"}) for n in range(40)]
    upper, work, target = (folder(deep / name) for name in ("upper", "work", "target"))

    def look() -> object:
        if old_kernel:
            mounts._mount_overlay_old(target, lowers, upper, work)
        else:
            mounts.mount_overlay(target, lowers, upper, work)
        (Path(target) / "written").write_text("w")
        return (Path(target) / "f").read_text(), len(os.listdir(target))

    assert in_namespace(look) == "('layer 0', 42)"
    assert os.listdir(upper) == ["written"]


def test_overlay_without_upper_is_read_only(tmp_path: Path) -> None:
    lowers = [folder(tmp_path / n, f=n) for n in ("a", "b")]
    target = folder(tmp_path / "target")

    def write() -> object:
        mounts.mount_overlay(target, lowers, None, None)
        try:
            (Path(target) / "x").write_text("")
        except OSError as error:
            return error.errno == errno.EROFS
        return False

    assert in_namespace(write) == "True"


@pytest.mark.parametrize("old_kernel", [False, True])
def test_bind_flags_hold(tmp_path: Path, old_kernel: bool) -> None:
    source, target = folder(tmp_path / "s", f="x"), folder(tmp_path / "t")

    def flags() -> object:
        if old_kernel:
            mounts._bind_old(source, target, mounts.ATTR_RDONLY | mounts.ATTR_NODEV, False)
        else:
            mounts.bind(source, target, read_only=True, nosuid=False)
        return os.statvfs(target).f_flag & 15

    assert in_namespace(flags) == str(mounts.MS_RDONLY | mounts.MS_NODEV)


def test_pivot_leaves_nothing_of_the_old_root(tmp_path: Path) -> None:
    new = folder(tmp_path / "new")

    def pivot() -> object:
        mounts.mount_tmpfs(new, 1 << 20)
        os.mkdir(new + "/proc")
        mounts.mount_proc(new + "/proc")
        mounts.pivot_into(new)
        return os.listdir("/"), len(Path("/proc/self/mounts").read_text().splitlines())

    assert in_namespace(pivot) == "(['proc'], 2)"
