"""Directories of the target and the source swapped for links while COPY works: nothing outside is written or read."""

from __future__ import annotations

import ctypes
import os
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandboxbuild.errors import SandboxbuildError
from sandboxbuild.executor import copy
from sandboxbuild.executor.copy import apply_actions
from sandboxbuild.executor.trees import DirectoryTree
from sandboxbuild.fstree.actions import FileAction, MakeDirectory, Remove, SetMetadata, WriteBytes
from sandboxbuild.plan.copying import copy_actions
from sandboxbuild.plan.operations import CopyOp, StageSource
from sandboxbuild.system import files
from tests.support.profiles import runtime_or_skip
from tests.support.sandboxes import Lab

pytestmark = pytest.mark.root
ROUNDS = 10_000
RENAME_EXCHANGE = 2
AT_FDCWD = -100


@contextmanager
def swapping(one: Path, two: Path) -> Iterator[None]:
    """A child that exchanges two names as fast as it can."""
    pid = os.fork()
    if pid == 0:
        libc = ctypes.CDLL(None)
        while True:
            libc.renameat2(AT_FDCWD, bytes(one), AT_FDCWD, bytes(two), RENAME_EXCHANGE)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    (folder / "kept").mkdir(parents=True)
    (folder / "f").write_text("canary")
    os.chmod(folder / "f", 0o600)
    return folder


@pytest.mark.promise(8, "directories that are swapped for links lead nowhere")
def test_no_action_leaves_the_root_while_its_directories_become_links(tmp_path: Path, outside: Path) -> None:
    root = tmp_path / "root"
    (root / "d/kept").mkdir(parents=True)
    os.symlink(outside, root / "link")
    actions: tuple[FileAction, ...] = (
        WriteBytes(b"d/f", b"written", 0o644, 0, 0, 1),
        SetMetadata(b"d/f", mode=0o777, uid=5, gid=5),
        MakeDirectory(b"d/new", 0o755, 0, 0, 1),
        Remove(b"d/kept"),
    )
    refused = 0
    with swapping(root / "d", root / "link"):
        for number in range(ROUNDS):
            try:
                apply_actions(str(root), actions[number % 4 :][:1], ())
            except SandboxbuildError:
                refused += 1
    assert 0 < refused < ROUNDS
    assert sorted(path.name for path in outside.iterdir()) == ["f", "kept"]
    assert (outside / "f").read_text() == "canary"
    assert stat.S_IMODE((outside / "f").stat().st_mode) == 0o600
    assert (outside / "f").stat().st_uid == 0


@pytest.mark.promise(8, "directories that are swapped for links lead nowhere")
def test_no_file_outside_is_read_while_the_source_becomes_a_link(tmp_path: Path, outside: Path) -> None:
    source, root = tmp_path / "source", tmp_path / "root"
    (source / "d").mkdir(parents=True)
    (source / "d/f").write_text("public")
    os.symlink(outside, source / "link")
    root.mkdir()
    op = CopyOp((StageSource(0),), (("d/f",),), "/f")
    source_fd, root_fd = (os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (source, root))
    copied = 0
    with swapping(source / "d", source / "link"):
        for _ in range(ROUNDS // 4):
            try:
                with DirectoryTree(source_fd) as tree, DirectoryTree(root_fd) as target:
                    actions = copy_actions(op, [tree], target, owner=None, now_ns=1)
                apply_actions(str(root), actions, [source_fd])
            except SandboxbuildError:
                continue
            copied += 1
            assert (root / "f").read_text() == "public"
    os.close(source_fd)
    os.close(root_fd)
    assert 0 < copied < ROUNDS // 4


# As above, in a sandbox: gVisor has no openat2(2), so there each step of a path is looked at by itself. `rounds` comes first.
IN_A_SANDBOX = """
import os, signal
from sandboxbuild.errors import SandboxbuildError
from sandboxbuild.executor.copy import apply_actions
from sandboxbuild.fstree.actions import MakeDirectory, Remove, WriteBytes
top = "/sandboxbuild/store/race"
os.makedirs(top + "/root/d/kept")
os.makedirs(top + "/outside/kept")
os.symlink(top + "/outside", top + "/root/link")
swapper = os.fork()
while swapper == 0:
    for old, new in (("d", "aside"), ("link", "d"), ("d", "link"), ("aside", "d")):
        os.rename(f"{top}/root/{old}", f"{top}/root/{new}")
actions = (WriteBytes(b"d/f", b"written", 0o644, 0, 0, 1), MakeDirectory(b"d/new", 0o755, 0, 0, 1), Remove(b"d/kept"))
refused = 0
try:
    for number in range(rounds):
        try:
            apply_actions(top + "/root", actions[number % 3 :][:1], ())
        except SandboxbuildError:
            refused += 1
finally:
    os.kill(swapper, signal.SIGKILL)
    os.waitpid(swapper, 0)
value = refused
"""


@pytest.mark.promise(8, "directories that are swapped for links lead nowhere")
@pytest.mark.parametrize("profile", ["plain", "runc", "gvisor"])
def test_an_executor_of_any_profile_is_not_led_out_of_the_root(tmp_path: Path, profile: str) -> None:
    runtime = runtime_or_skip({"plain": "namespaces", "gvisor": "runsc"}.get(profile, profile))
    lab = Lab(tmp_path, runtime=runtime)
    try:
        refused = lab.python("rounds = 2000\n" + IN_A_SANDBOX)
    finally:
        lab.close()
    assert 0 < refused < 2000
    assert os.listdir(lab.store / "race" / "outside") == ["kept"]


@pytest.mark.without_defence(8, "directories that are swapped for links lead nowhere")
def test_an_executor_that_follows_links_is_led_out(tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True)
    os.symlink(outside, root / "link")
    monkeypatch.setattr(files, "_BENEATH", 0)
    monkeypatch.setattr(copy, "_DIRECTORY", copy._DIRECTORY & ~os.O_NOFOLLOW)
    with swapping(root / "d", root / "link"):
        for _ in range(ROUNDS):
            try:
                apply_actions(str(root), (WriteBytes(b"d/planted", b"written", 0o644, 0, 0, 1),), ())
            except SandboxbuildError:
                continue
            if (outside / "planted").exists():
                break
    assert (outside / "planted").exists()
