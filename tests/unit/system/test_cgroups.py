"""Where a build's cgroups can be made, on hosts of each kind, and what is written there; folders stand for hierarchies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from sandboxbuild.errors import IsolationError
from sandboxbuild.system import cgroups
from sandboxbuild.system.cgroups import Hierarchy, Place
from sandboxbuild.system.groups import Bounds, BuildGroup

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
    group = BuildGroup([Place(2, str(tmp_path), ("cpu", "memory", "pids"))], "b1")
    group.limit(Bounds(memory_bytes=1 << 20, pids=64, cpus=1.5))
    assert written(tmp_path / f"{cgroups.PREFIX}b1") == {
        "cgroup.subtree_control": "+cpu +memory +pids",
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
    group = BuildGroup([Place(1, str(tmp_path), ("cpu", "memory", "pids"))], "b1")
    group.limit(Bounds(memory_bytes=1 << 20, cpus=0.5))
    assert written(tmp_path / f"{cgroups.PREFIX}b1") == {
        "memory.use_hierarchy": "1",
        "memory.limit_in_bytes": "1048576",
        "memory.memsw.limit_in_bytes": "1048576",
        "cpu.cfs_period_us": "100000",
        "cpu.cfs_quota_us": "50000",
    }
    group.close()


V1_KILL = {"memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"}
V1_MET = {"memory.memsw.max_usage_in_bytes": "8388000\n", "memory.memsw.limit_in_bytes": "8388608\n"}
V1_LESS = {"memory.memsw.max_usage_in_bytes": "4388000\n", "memory.memsw.limit_in_bytes": "8388608\n"}
V2_MET = {"memory.events.local": "low 0\nmax 17\noom 1\noom_kill 2\n"}
FULL = {"pids.events": "max 1\n"}


@pytest.mark.parametrize(
    ("version", "build", "main", "step", "met"),
    [
        (1, {}, {}, V1_MET | V1_KILL, ("", "memory")),
        (1, V1_MET, V1_KILL, {}, ("memory", "")),
        (1, V1_MET, {}, V1_KILL, ("memory", "")),
        (1, V1_MET, {}, V1_MET, ("", "")),
        (1, V1_MET, {}, V1_MET | V1_KILL, ("", "memory")),
        (1, V1_LESS, V1_KILL, V1_LESS | V1_KILL, ("", "")),
        (2, {}, {}, V2_MET, ("", "memory")),
        (2, V2_MET, {}, {"memory.events.local": "oom 0\noom_kill 4\n"}, ("memory", "")),
        (1, {}, {}, FULL, ("", "pids")),
        (1, {}, FULL, {}, ("pids", "")),
        (2, FULL, {}, FULL, ("", "pids")),
        (2, {"pids.events.local": "max 1\n"}, {}, {}, ("pids", "")),
        (2, {"pids.current": "20\n"}, {}, {"pids.current": "9\n"}, ("pids", "")),
        (2, {"pids.current": "10\n"}, {}, {"pids.current": "10\n"}, ("", "pids")),
        (1, {"pids.events": "max 0\n"}, {}, {"pids.events": "max 0\n"}, ("", "")),
    ],
)
def test_what_the_kernel_counts_says_which_bound_was_met_and_whose(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: int,
    build: dict[str, str],
    main: dict[str, str],
    step: dict[str, str],
    met: tuple[str, str],
) -> None:
    prepared(tmp_path, monkeypatch)
    group = BuildGroup([Place(version, str(tmp_path), ("memory", "pids"))], "b1")
    group.limit(Bounds(pids=20))
    running = group.add_step(7, Bounds(pids=10))
    top = tmp_path / f"{cgroups.PREFIX}b1"
    for folder, counted in ((top, build), (top / "main", main), (top / "step-7", step)):
        for name, text in counted.items():
            (folder / name).write_text(text)
    assert (group.exceeded(), running.exceeded()) == met
    group.close()


def test_a_step_s_group_is_made_beside_the_sandbox_s_and_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(tmp_path, monkeypatch)
    group = BuildGroup([Place(1, str(tmp_path), ("memory", "pids"))], "b1")
    step = group.add_step(3, Bounds(memory_bytes=4096, pids=5))
    top = tmp_path / f"{cgroups.PREFIX}b1"
    assert group.folders == (str(top / "main"),)
    assert written(top / "step-3")["pids.max"] == "5"
    with pytest.raises(IsolationError, match="can't be made"):
        group.add_step(3, Bounds())
    assert step.remove()
    assert not (top / "step-3").exists()
    group.close()


def test_more_processes_than_a_kernel_can_have_are_its_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(tmp_path, monkeypatch)
    group = BuildGroup([Place(1, str(tmp_path), ("pids",))], "b1")
    group.limit(Bounds(pids=2**31))
    assert written(tmp_path / f"{cgroups.PREFIX}b1")["pids.max"] == str(4 << 20)
    group.close()


def test_a_process_is_found_by_its_number_in_its_own_namespace(tmp_path: Path) -> None:
    group = BuildGroup([Place(1, str(tmp_path), ("pids",))], "b1")
    namespace = os.stat("/proc/self/ns/pid").st_ino
    inside = int(next(line for line in Path("/proc/self/status").read_text().splitlines() if "NSpid" in line).split()[-1])
    procs = Path(group.folders[0]) / "cgroup.procs"
    assert group.find(inside, namespace) == 0, "only those of the sandbox are looked at"
    procs.write_text(f"1\n{os.getpid()}\n")
    assert group.find(inside, namespace) == os.getpid()
    assert group.find(inside, namespace + 1) == 0
    assert group.find(inside + 1, namespace) == 0
    procs.unlink()
    group.close()


def test_a_group_that_a_launcher_holds_is_no_leftover(tmp_path: Path) -> None:
    place = Place(1, str(tmp_path), ("memory",))
    group = BuildGroup([place], "alive")
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
        BuildGroup(places, "b1")
    assert os.listdir(tmp_path / "one") == []


def test_joining_an_absent_group_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(IsolationError, match="can't be put into its cgroup"):
        cgroups.join([str(tmp_path / "absent")], os.getpid())


def test_the_lock_of_a_group_is_held_until_it_is_closed(tmp_path: Path) -> None:
    group = BuildGroup([Place(1, str(tmp_path), ("memory",))], "b1")
    folder = os.open(tmp_path / f"{cgroups.PREFIX}b1", os.O_RDONLY)
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
    group = BuildGroup([place], "b1")
    cgroups.sweep([place])
    assert os.listdir(tmp_path) == [f"{cgroups.PREFIX}b1"]
    group.close()
    assert os.listdir(tmp_path) == []
