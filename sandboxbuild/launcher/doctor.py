"""What this host has and lacks for building, and the command that mends it. Each check looks at one thing and never raises."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from sandboxbuild.errors import SandboxbuildError
from sandboxbuild.launcher.stores import bundle_folder, store_path
from sandboxbuild.system import cgroups, idmap, seccomp

_LOW_SPACE_BYTES: Final = 2 * 1000**3
_TRY_UNSHARE: Final = "from sandboxbuild.system import namespaces as n; n.unshare(n.NEWUSER | n.NEWNS | n.NEWPID | n.NEWNET)"


class Check(NamedTuple):
    """One finding. `state` is ok, warning (builds work, with less) or missing (they don't); `remedy` mends it."""

    name: str
    state: str
    finding: str
    remedy: str = ""


def examine(environ: Mapping[str, str], store: str = "") -> tuple[Check, ...]:
    """All checks, in the order in which a build meets them."""
    is_root = os.geteuid() == 0
    return (
        check_kernel(os.uname().release),
        check_user_namespaces(is_root=is_root),
        check_ids(),
        check_overlay(_read("/proc/filesystems")),
        check_filter_library(seccomp.library_version()),
        check_cgroups(cgroups.read_hierarchies(), is_root=is_root),
        check_ptrace(_read("/proc/sys/kernel/yama/ptrace_scope").strip()),
        check_apparmor(_read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").strip(), is_root=is_root),
        *check_folders(environ, store, is_root=is_root),
    )


def check_kernel(release: str) -> Check:
    """5.12 has mount_setattr(2), which shows a context with the image's owners; 5.11 overlay in user namespaces."""
    version = tuple(int(part) for part in release.split("-", maxsplit=1)[0].split(".")[:2] if part.isdigit())
    if version >= (5, 12):
        return Check("kernel", "ok", release)
    return Check("kernel", "missing", f"{release} is older than 5.12", "install a newer kernel")


def check_user_namespaces(*, is_root: bool) -> Check:
    """By making some, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _TRY_UNSHARE], capture_output=True, text=True, check=False, timeout=30, cwd=_package_parent()
    )
    if done.returncode == 0:
        return Check("user namespaces", "ok", "can be made")
    for knob, bad, command in (
        ("kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
        ("user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=15000"),
    ):
        if _read(f"/proc/sys/{knob}").strip() == bad:
            return Check("user namespaces", "missing", f"{knob.replace('/', '.')} is {bad}", command)
    reason = done.stderr.strip().rpartition("\n")[2] or "refused"
    remedy = "allow unshare(2) and mount(2) in the surrounding container's seccomp and AppArmor profiles"
    return Check("user namespaces", "missing", reason, remedy if is_root else f"run as root, or {remedy}")


def check_ids() -> Check:
    try:
        plan = idmap.find()
    except SandboxbuildError as error:
        return Check("ids", "missing", error.message, error.hint)
    if plan.mode == "range":
        first = plan.uids[0]
        return Check("ids", "ok", f"the image's ids are {first[1]} to {first[1] + first[2] - 1} on the host")
    user = os.environ.get("USER", "$USER")
    remedy = f"apt-get install uidmap && usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"
    return Check("ids", "warning", f"only one id, so chown in a build fails: {plan.why_single}", remedy)


def check_overlay(filesystems: str) -> Check:
    if any(line.split()[-1:] == ["overlay"] for line in filesystems.splitlines()):
        return Check("overlay", "ok", "in the kernel")
    return Check("overlay", "warning", "not in the kernel (yet): builds copy layers, which is slower", "modprobe overlay")


def check_filter_library(version: str) -> Check:
    """Without it no filter can be compiled, and no step is run without one."""
    if version:
        return Check("libseccomp", "ok", version)
    return Check("libseccomp", "missing", "not found; it compiles the syscall filter of steps", "apt-get install libseccomp2")


def check_cgroups(found: Sequence[cgroups.Hierarchy], *, is_root: bool) -> Check:
    """What holds limits.memory, limits.pids and limits.cpu."""
    kind = cgroups.kind_of(found)
    places = cgroups.find_places(found)
    if cgroups.covers(places, *cgroups.CONTROLLERS):
        return Check("cgroups", "ok", f"{kind}: memory, pids and cpu can be limited")
    had = {name for place in places for name in place.controllers}
    missing = ", ".join(name for name in cgroups.CONTROLLERS if name not in had)
    finding = f"{kind}: no group can be made with {missing}; limits of memory and pids are held by polling, of cpu not at all"
    if is_root:
        remedy = "mount the controllers writable: in a container, docker run --cgroupns=private with a writable /sys/fs/cgroup"
    elif kind == "version 2":
        remedy = "systemd-run --user --scope sandboxbuild run ..."
    else:
        remedy = "boot with systemd.unified_cgroup_hierarchy=1: version 1 can't be given to a user"
    return Check("cgroups", "warning", finding, remedy)


def check_ptrace(scope: str) -> Check:
    """Yama's setting (admin-guide/LSM/Yama): with 0 a process may trace any other of its user, on the host."""
    if scope in ("1", "2", "3"):
        return Check("ptrace scope", "ok", scope)
    finding = "0: any process of a user may trace the user's others" if scope == "0" else "the kernel has no Yama"
    return Check("ptrace scope", "ok" if not scope else "warning", finding, "sysctl -w kernel.yama.ptrace_scope=1")


def check_apparmor(restricts: str, *, is_root: bool) -> Check:
    """Ubuntu's restriction of user namespaces to programs with a profile of AppArmor's."""
    if restricts != "1":
        return Check("AppArmor", "ok", "doesn't restrict user namespaces")
    if is_root:
        return Check("AppArmor", "ok", "restricts user namespaces, but not root's")
    return Check(
        "AppArmor",
        "missing",
        "lets no unprivileged program have capabilities in a user namespace",
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or a profile with `userns,` for this interpreter",
    )


def check_folders(environ: Mapping[str, str], store: str, *, is_root: bool) -> tuple[Check, ...]:
    try:
        places = (
            ("store", store_path(store, environ, is_root=is_root)),
            ("cache", bundle_folder(environ, is_root=is_root)),
        )
    except SandboxbuildError as error:
        return (Check("store", "missing", error.message, error.hint),)
    return tuple(_check_folder(name, path) for name, path in places)


def _check_folder(name: str, path: str) -> Check:
    existing = path
    while not os.path.isdir(existing):
        existing = os.path.dirname(existing)
    if not os.access(existing, os.W_OK | os.X_OK):
        return Check(name, "missing", f"{path} can't be written to", f"use --store PATH, or chown {existing}")
    free_bytes = shutil.disk_usage(existing).free
    space = f"{path}, {free_bytes / 1000**3:.1f} GB free"
    if free_bytes < _LOW_SPACE_BYTES:
        return Check(name, "warning", space, "sandboxbuild prune --all, or --store PATH on another disk")
    return Check(name, "ok", space)


def _package_parent() -> str:
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as stream:
            return stream.read(65536)
    except OSError:
        return ""
