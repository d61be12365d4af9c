"""What doctor makes of a host's facts: what is missing, and the command that would mend it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sandboxbuild.launcher import doctor
from sandboxbuild.launcher.hostfacts import FolderFact, HostFacts, RuntimeFact
from sandboxbuild.system import idmap
from sandboxbuild.system.cgroups import Hierarchy

RUNSC = RuntimeFact("runsc", "runsc", "/usr/bin/runsc", "20240729", "20230101", "apt-get install runsc")


def host(**changes: Any) -> HostFacts:
    """A normal user's host that lacks nothing, but for the changes."""
    ranges = ((0, 100000, 65536),)
    facts = HostFacts(
        is_root=False,
        user="somebody",
        kernel="6.1.0-18-amd64",
        unshare_error="",
        knobs={"kernel/yama/ptrace_scope": "1", "user/max_user_namespaces": "15000"},
        ids=idmap.IdPlan("range", ranges, ranges, 65536, direct=False),
        ids_error="",
        ids_hint="",
        filesystems="nodev\toverlay\n\text4\n",
        libseccomp="libseccomp.so.2.5.4",
        hierarchies=(),
        has_kvm=True,
        may_use_kvm=True,
        runtimes=(RUNSC,),
        folders=(FolderFact("store", "/var/s", "/var", True, 10**11),),
    )
    return facts._replace(**changes)


def hierarchies(folder: Path, names: tuple[str, ...] = ("memory", "pids", "cpu")) -> tuple[Hierarchy, ...]:
    for name in names:
        (folder / name).mkdir()
    return tuple(Hierarchy(1, str(folder / name), str(folder / name), (name,)) for name in names)


def found(facts: HostFacts, name: str) -> doctor.Check:
    (check,) = [check for check in doctor.judge(facts) if check.name == name]
    return check


def test_a_host_that_lacks_nothing_is_well(tmp_path: Path) -> None:
    checks = doctor.judge(host(hierarchies=hierarchies(tmp_path)))
    assert {check.state for check in checks} == {"ok"}, checks


SINGLE = idmap.single(1000, 1000, "/etc/subuid gives this user fewer than 65536 ids")
FAULTS: dict[str, tuple[dict[str, Any], str, str, str, str]] = {
    "an old kernel": ({"kernel": "5.4.0-generic"}, "kernel", "missing", "older than 5.12", "install a newer kernel"),
    "no user namespaces by Debian's knob": (
        {"unshare_error": "EPERM", "knobs": {"kernel/unprivileged_userns_clone": "0"}},
        "user namespaces", "missing", "kernel.unprivileged_userns_clone is 0", "sysctl -w kernel.unprivileged_userns_clone=1",
    ),
    "no user namespaces by number": (
        {"unshare_error": "ENOSPC", "knobs": {"user/max_user_namespaces": "0"}},
        "user namespaces", "missing", "user.max_user_namespaces is 0", "sysctl -w user.max_user_namespaces=15000",
    ),
    "no user namespaces in a container": (
        {"unshare_error": "Operation not permitted", "is_root": True},
        "user namespaces", "missing", "Operation not permitted", "seccomp and AppArmor profiles",
    ),
    "AppArmor's restriction": (
        {"knobs": {"kernel/apparmor_restrict_unprivileged_userns": "1"}},
        "AppArmor", "missing", "capabilities in a user namespace", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    "no subordinate ids": (
        {"ids": SINGLE}, "ids", "warning", "/etc/subuid gives this user fewer",
        "apt-get install uidmap && usermod --add-subuids 100000-165535 --add-subgids 100000-165535 somebody",
    ),
    "too few ids for root": (
        {"ids": None, "ids_error": "no 65537 ids", "ids_hint": "more ids"}, "ids", "missing", "no 65537 ids", "more ids",
    ),
    "no overlay": ({"filesystems": "\text4\n"}, "overlay", "warning", "copy layers", "modprobe overlay"),
    "no libseccomp": ({"libseccomp": ""}, "libseccomp", "missing", "not found", "apt-get install libseccomp2"),
    "no cgroups for root": ({"is_root": True}, "cgroups", "warning", "none: no group", "docker run --cgroupns=private"),
    "cgroup version 2 without a delegated group": (
        {"hierarchies": (Hierarchy(2, "/nowhere", "/nowhere", ()),)},
        "cgroups", "warning", "version 2: no group can be made with memory, pids, cpu", "systemd-run --user --scope",
    ),
    "cgroup version 1": (
        {"hierarchies": (Hierarchy(1, "/nowhere", "/nowhere", ("memory",)),)},
        "cgroups", "warning", "version 1: no group", "systemd.unified_cgroup_hierarchy=1",
    ),
    "both versions of cgroups": (
        {"hierarchies": (Hierarchy(1, "/nowhere", "/nowhere", ("memory",)), Hierarchy(2, "/no", "/no", ()))},
        "cgroups", "warning", "hybrid: no group", "systemd.unified_cgroup_hierarchy=1",
    ),
    "an open ptrace scope": (
        {"knobs": {"kernel/yama/ptrace_scope": "0"}}, "ptrace scope", "warning", "0: any process", "kernel.yama.ptrace_scope=1",
    ),
    "an old runsc": (
        {"runtimes": (RUNSC._replace(version="20221219"),)},
        "runsc", "warning", "/usr/bin/runsc is 20221219, and 20230101 is the oldest", "apt-get install runsc",
    ),
    "a runsc without a version": (
        {"runtimes": (RUNSC._replace(version=""),)}, "runsc", "warning", "of unknown version", "apt-get install runsc",
    ),
    "no runsc": (
        {"runtimes": (RUNSC._replace(path="", version=""),)}, "runsc", "warning", "not installed", "apt-get install runsc",
    ),
    "no KVM": ({"has_kvm": False, "may_use_kvm": False}, "KVM", "warning", "no /dev/kvm", "modprobe kvm_intel"),
    "another's KVM": ({"may_use_kvm": False}, "KVM", "warning", "not this user's", "usermod --append --groups kvm somebody"),
    "another's store": (
        {"folders": (FolderFact("store", "/a/b", "/a", False, 10**11),)}, "store", "missing", "can't be written", "chown /a",
    ),
    "a full disk": (
        {"folders": (FolderFact("store", "/a", "/a", True, 10**9),)}, "store", "warning", "1.0 GB free", "sandboxbuild prune",
    ),
    "no home": (
        {"folders_error": "no place", "folders_hint": "set HOME"}, "store", "missing", "no place", "set HOME",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "name", "state", "finding", "remedy"), FAULTS.values(), ids=FAULTS)
def test_each_fault_is_told_with_what_mends_it(
    changes: dict[str, Any], name: str, state: str, finding: str, remedy: str
) -> None:
    check = found(host(**changes), name)
    assert check.state == state
    assert finding in check.finding
    assert remedy in check.remedy


def test_a_missing_controller_is_named(tmp_path: Path) -> None:
    check = found(host(hierarchies=hierarchies(tmp_path, ("memory", "pids"))), "cgroups")
    assert "no group can be made with cpu;" in check.finding


def test_apparmor_s_restriction_is_not_root_s() -> None:
    knobs = {"kernel/apparmor_restrict_unprivileged_userns": "1"}
    assert found(host(is_root=True, knobs=knobs), "AppArmor").state == "ok"


@pytest.mark.parametrize(("scope", "state"), [("1", "ok"), ("3", "ok"), ("", "ok")])
def test_a_closed_ptrace_scope_is_well(scope: str, state: str) -> None:
    assert found(host(knobs={"kernel/yama/ptrace_scope": scope}), "ptrace scope").state == state


def test_this_host_can_be_examined() -> None:
    names = [check.name for check in doctor.examine({"HOME": "/root", "USER": "root"})]
    assert {"kernel", "ids", "runsc", "runc", "crun", "KVM", "store", "cache"} <= set(names)
