"""Where a build's cgroups can be made, on hosts of each kind, and what is written there; folders stand for hierarchies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from sandboxbuild.errors import IsolationError
from sandboxbuild.system import cgroups
from sandboxbuild.system.cgroups import Group, Hierarchy, Place

V1 = """25 20 0:22 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
32 25 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 25 0:32 / /sys/fs/cgroup/memory rw,relatime shared:3 - cgroup cgroup rw,memory
39 25 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
40 25 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
"""
V2 = "30 20 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
HYBRID = V1 + "41 25 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
OWN_V1 = "9:name=systemd:/\n8:pids:/jobs/7\n4:memory:/limited\n1:cpu,cpuacct:/\n0::/system.slice/ci.service\n"


def test_version_1_has_a_hierarchy_for_each_controller() -> None:
    assert set(cgroups.hierarchies(V1, OWN_V1)) == {
        Hierarchy(1, "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct", ("cpu",)),
        Hierarchy(1, "/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/limited", ("memory",)),
        Hierarchy(1, "/sys/fs/cgroup/pids", "/sys/fs/cgroup/pids/jobs/7", ("pids",)),
    }


def test_version_2_is_one_hierarchy() -> None:
    found = cgroups.hierarchies(V2, "0::/user.slice/session-1.scope\n")
    assert found == (Hierarchy(2, "/sys/fs/cgroup", "/sys/fs/cgroup/user.slice/session-1.scope", ()),)


@pytest.mark.parametrize(
    ("mounts", "kind"), [(V1, "version 1"), (V2, "version 2"), (HYBRID, "hybrid"), ("", "none"), ("1 2 3\n - x\n", "none")]
)
def test_the_kind_is_what_is_mounted(mounts: str, kind: str) -> None:
    assert cgroups.kind_of(cgroups.hierarchies(mounts, OWN_V1)) == kind


def test_a_container_s_own_root_is_cut_off_the_path() -> None:
    mounts = "35 25 0:32 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    assert cgroups.hierarchies(mounts, "4:memory:/docker/abc\n")[0].own == "/sys/fs/cgroup/memory"
    assert cgroups.hierarchies(mounts, "4:memory:/docker/abc/job\n")[0].own == "/sys/fs/cgroup/memory/job"


def test_a_group_outside_the_namespace_is_taken_for_the_mount_s_root() -> None:
    assert cgroups.hierarchies(V2, "0::/../other\n")[0].own == "/sys/fs/cgroup"


def hierarchy_2(folder: Path, **delegated: str) -> Hierarchy:
    """A tree a/b in which the named folders hand controllers down; a/b is our own."""
    (folder / "a" / "b").mkdir(parents=True)
    for path in (folder, folder / "a", folder / "a" / "b"):
        (path / "cgroup.procs").write_text("")
        (path / "cgroup.subtree_control").write_text(delegated.get(path.name, ""))
    return Hierarchy(2, str(folder), str(folder / "a" / "b"), ())


def test_in_version_2_the_nearest_ancestor_that_delegates_is_taken(tmp_path: Path) -> None:
    entry = hierarchy_2(tmp_path, a="cpu memory pids io")
    assert cgroups.find_places([entry]) == (Place(2, str(tmp_path / "a"), ("cpu", "memory", "pids")),)


def test_controllers_that_nobody_hands_down_are_not_had(tmp_path: Path) -> None:
    places = cgroups.find_places([hierarchy_2(tmp_path, a="hugetlb")])
    assert places == ()
    assert not cgroups.covers(places, "memory")


def test_in_a_hybrid_each_controller_is_taken_once(tmp_path: Path) -> None:
    entry = hierarchy_2(tmp_path / "unified", a="pids")
    for name in ("memory", "pids", "cpu"):
        (tmp_path / name).mkdir()
    version_1 = [Hierarchy(1, str(tmp_path / name), str(tmp_path / name), (name,)) for name in ("memory", "pids", "cpu")]
    places = cgroups.find_places([entry, *version_1])
    assert [(place.version, place.controllers) for place in places] == [(2, ("pids",)), (1, ("memory",)), (1, ("cpu",))]
    assert cgroups.covers(places, *cgroups.CONTROLLERS)


def written(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def prepared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders that are made below `folder` can be removed with their files, as in a real hierarchy."""
    real = os.rmdir

    def rmdir(path: str) -> None:
        for name in os.listdir(path):
            if Path(path, name).is_file():
                Path(path, name).unlink()
        real(path)

    monkeypatch.setattr(os, "rmdir", rmdir)


def test_limits_are_written_as_version_2_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(tmp_path, monkeypatch)
    group = Group([Place(2, str(tmp_path), ("cpu", "memory", "pids"))], "b1")
    group.limit(memory_bytes=1 << 20, pids=64, cpus=1.5)
    assert written(Path(group.folders[0])) == {
        "memory.max": "1048576",
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "64",
        "cpu.max": "150000 100000",
    }
    group.close()
    assert list(tmp_path.iterdir()) == []


def test_limits_are_written_as_version_1_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(tmp_path, monkeypatch)
    group = Group([Place(1, str(tmp_path), ("cpu", "memory", "pids"))], "b1")
    group.limit(memory_bytes=1 << 20, pids=0, cpus=0.5)
    assert written(Path(group.folders[0])) == {
        "memory.limit_in_bytes": "1048576",
        "memory.memsw.limit_in_bytes": "1048576",
        "cpu.cfs_period_us": "100000",
        "cpu.cfs_quota_us": "50000",
    }
    group.close()


@pytest.mark.parametrize(
    ("version", "file", "text", "met"),
    [
        (1, "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n", "memory"),
        (1, "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n", ""),
        (2, "memory.events", "low 0\nmax 17\noom 1\noom_kill 2\n", "memory"),
        (2, "pids.events", "max 1\n", "pids"),
        (1, "pids.events", "max 0\n", ""),
    ],
)
def test_what_the_kernel_counts_says_which_limit_was_met(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, file: str, text: str, met: str
) -> None:
    prepared(tmp_path, monkeypatch)
    group = Group([Place(version, str(tmp_path), ("memory", "pids"))], "b1")
    group.limit(memory_bytes=0, pids=10, cpus=0)
    (Path(group.folders[0]) / file).write_text(text)
    assert group.exceeded() == met
    group.close()


def test_a_group_that_a_launcher_holds_is_no_leftover(tmp_path: Path) -> None:
    place = Place(1, str(tmp_path), ("memory",))
    group = Group([place], "alive")
    (tmp_path / f"{cgroups.PREFIX}dead").mkdir()
    (tmp_path / "somebody-else-s").mkdir()
    cgroups.sweep([place])
    assert sorted(os.listdir(tmp_path)) == [f"{cgroups.PREFIX}alive", "somebody-else-s"]
    group.close()
    assert os.listdir(tmp_path) == ["somebody-else-s"]


def test_a_leftover_with_groups_of_a_runtime_below_goes_too(tmp_path: Path) -> None:
    (tmp_path / f"{cgroups.PREFIX}dead" / "runtime" / "inner").mkdir(parents=True)
    cgroups.sweep([Place(1, str(tmp_path), ("memory",))])
    assert os.listdir(tmp_path) == []


def test_a_group_that_cannot_be_made_leaves_none_of_its_parts(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    places = [Place(1, str(tmp_path / "one"), ("memory",)), Place(1, str(tmp_path / "absent"), ("pids",))]
    with pytest.raises(IsolationError, match="can't be made"):
        Group(places, "b1")
    assert os.listdir(tmp_path / "one") == []


def test_joining_an_absent_group_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(IsolationError, match="can't be put into its cgroup"):
        cgroups.join([str(tmp_path / "absent")], os.getpid())


def test_the_lock_of_a_group_is_held_until_it_is_closed(tmp_path: Path) -> None:
    group = Group([Place(1, str(tmp_path), ("memory",))], "b1")
    folder = os.open(group.folders[0], os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    group.close()
    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(folder)


def test_a_group_that_is_swept_before_it_is_locked_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(1, str(tmp_path), ("memory",))
    real, left = os.mkdir, [2]

    def mkdir(path: str, mode: int) -> None:
        real(path, mode)
        if left[0]:
            left[0] -= 1
            cgroups.sweep([place])

    monkeypatch.setattr(os, "mkdir", mkdir)
    group = Group([place], "b1")
    cgroups.sweep([place])
    assert os.listdir(tmp_path) == [f"{cgroups.PREFIX}b1"]
    group.close()
    assert os.listdir(tmp_path) == []
