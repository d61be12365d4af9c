"""What this host has and lacks for building, and the command that mends it. Each check looks at one thing and never raises."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from typing import Final, NamedTuple

from sandboxbuild.errors import SandboxbuildError
from sandboxbuild.launcher.stores import bundle_folder, store_path
from sandboxbuild.system import idmap

_LIBRARY_FOLDERS: Final = ("/lib", "/usr/lib", "/lib64", "/usr/lib64", "/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu")
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
        check_library("libseccomp.so.2", "the syscall filter of steps", "apt-get install libseccomp2"),
        check_cgroups(os.path.exists("/sys/fs/cgroup/cgroup.controllers"), os.path.isdir("/sys/fs/cgroup/unified")),
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


def check_library(name: str, purpose: str, remedy: str) -> Check:
    if any(os.path.exists(f"{folder}/{name}") for folder in _LIBRARY_FOLDERS):
        return Check(name, "ok", f"for {purpose}")
    return Check(name, "warning", f"not found; it is for {purpose}", remedy)


def check_cgroups(unified: bool, hybrid: bool) -> Check:
    if unified:
        return Check("cgroups", "ok", "version 2")
    return Check(
        "cgroups", "warning", "hybrid" if hybrid else "version 1 or none", "boot with systemd.unified_cgroup_hierarchy=1"
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
