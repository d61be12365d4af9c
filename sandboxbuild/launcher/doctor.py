"""What a host has and lacks for building, and the command that mends it. Each check is a function of the facts collected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from sandboxbuild.launcher.hostfacts import FolderFact, HostFacts, RuntimeFact, collect
from sandboxbuild.system import cgroups

_LOW_SPACE_BYTES: Final = 2 * 1000**3
_OPEN_CONTAINER: Final = "allow unshare(2) and mount(2) in the surrounding container's seccomp and AppArmor profiles"
_CLOSED_KNOBS: Final = (
    ("kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
    ("user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=15000"),
)


class Check(NamedTuple):
    """One finding. `state` is ok, warning (builds work, with less) or missing (they don't); `remedy` mends it."""

    name: str
    state: str
    finding: str
    remedy: str = ""


def examine(environ: Mapping[str, str], store: str = "") -> tuple[Check, ...]:
    """All checks of this host."""
    return judge(collect(environ, store))


def judge(facts: HostFacts) -> tuple[Check, ...]:
    """All checks, in the order in which a build meets them. Pure but for asking which cgroups can be made."""
    return (
        check_kernel(facts),
        check_user_namespaces(facts),
        check_apparmor(facts),
        check_ids(facts),
        check_overlay(facts),
        check_filter_library(facts),
        check_cgroups(facts),
        check_ptrace(facts),
        *(check_runtime(fact) for fact in facts.runtimes),
        check_kvm(facts),
        *check_folders(facts),
    )


def check_kernel(facts: HostFacts) -> Check:
    """5.12 has mount_setattr(2), which shows a context with the image's owners; 5.11 overlay in user namespaces."""
    version = tuple(int(part) for part in facts.kernel.split("-", maxsplit=1)[0].split(".")[:2] if part.isdigit())
    if version >= (5, 12):
        return Check("kernel", "ok", facts.kernel)
    return Check("kernel", "missing", f"{facts.kernel} is older than 5.12", "install a newer kernel")


def check_user_namespaces(facts: HostFacts) -> Check:
    """Whether some could be made, else which setting it is."""
    if not facts.unshare_error:
        return Check("user namespaces", "ok", "can be made")
    for knob, closed, command in _CLOSED_KNOBS:
        if facts.knobs.get(knob) == closed:
            return Check("user namespaces", "missing", f"{knob.replace('/', '.')} is {closed}", command)
    remedy = _OPEN_CONTAINER if facts.is_root else f"run as root, or {_OPEN_CONTAINER}"
    return Check("user namespaces", "missing", facts.unshare_error, remedy)


def check_apparmor(facts: HostFacts) -> Check:
    """Ubuntu's restriction of user namespaces to programs with a profile of AppArmor's."""
    if facts.knobs.get("kernel/apparmor_restrict_unprivileged_userns") != "1":
        return Check("AppArmor", "ok", "doesn't restrict user namespaces")
    if facts.is_root:
        return Check("AppArmor", "ok", "restricts user namespaces, but not root's")
    return Check(
        "AppArmor",
        "missing",
        "lets no unprivileged program have capabilities in a user namespace",
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or a profile with `userns,` for this interpreter",
    )


def check_ids(facts: HostFacts) -> Check:
    """The range of ids that stands for the image's, or why there is only one."""
    plan = facts.ids
    if plan is None:
        return Check("ids", "missing", facts.ids_error, facts.ids_hint)
    if plan.mode == "range":
        first = plan.uids[0]
        return Check("ids", "ok", f"the image's ids are {first[1]} to {first[1] + first[2] - 1} on the host")
    give = f"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {facts.user}"
    return Check(
        "ids", "warning", f"only one id, so chown in a build fails: {plan.why_single}", f"apt-get install uidmap && {give}"
    )


def check_overlay(facts: HostFacts) -> Check:
    if any(line.split()[-1:] == ["overlay"] for line in facts.filesystems.splitlines()):
        return Check("overlay", "ok", "in the kernel")
    return Check("overlay", "warning", "not in the kernel (yet): builds copy layers, which is slower", "modprobe overlay")


def check_filter_library(facts: HostFacts) -> Check:
    """Without it no filter can be compiled, and no step is run without one."""
    if facts.libseccomp:
        return Check("libseccomp", "ok", facts.libseccomp)
    return Check("libseccomp", "missing", "not found; it compiles the syscall filter of steps", "apt-get install libseccomp2")


def check_cgroups(facts: HostFacts) -> Check:
    """What holds limits.memory, limits.pids and limits.cpu."""
    kind = cgroups.kind_of(facts.hierarchies)
    places = cgroups.find_places(facts.hierarchies)
    if cgroups.covers(places, *cgroups.CONTROLLERS):
        return Check("cgroups", "ok", f"{kind}: memory, pids and cpu can be limited")
    had = {name for place in places for name in place.controllers}
    missing = ", ".join(name for name in cgroups.CONTROLLERS if name not in had)
    finding = f"{kind}: no group can be made with {missing}; limits of memory and pids are held by polling, of cpu not at all"
    if facts.is_root:
        remedy = "mount the controllers writable: in a container, docker run --cgroupns=private with a writable /sys/fs/cgroup"
    elif kind == "version 2":
        remedy = "systemd-run --user --scope sandboxbuild run ..."
    else:
        remedy = "boot with systemd.unified_cgroup_hierarchy=1: version 1 can't be given to a user"
    return Check("cgroups", "warning", finding, remedy)


def check_ptrace(facts: HostFacts) -> Check:
    """Yama's setting (admin-guide/LSM/Yama): with 0 a process may trace any other of its user, on the host."""
    scope = facts.knobs.get("kernel/yama/ptrace_scope", "")
    if scope in ("1", "2", "3"):
        return Check("ptrace scope", "ok", scope)
    finding = "0: any process of a user may trace the user's others" if scope == "0" else "the kernel has no Yama"
    return Check("ptrace scope", "ok" if not scope else "warning", finding, "sysctl -w kernel.yama.ptrace_scope=1")


def check_runtime(fact: RuntimeFact) -> Check:
    """Whether a runtime's program is there and new enough; `sandboxbuild profiles` starts it as well."""
    from sandboxbuild.runtimes.probe import is_older

    if not fact.path:
        return Check(fact.name, "warning", f"{fact.binary} is not installed: no profile of this runtime", fact.install)
    if is_older(fact.version, fact.minimum):
        finding = f"{fact.path} is {fact.version or 'of unknown version'}, and {fact.minimum} is the oldest that works"
        return Check(fact.name, "warning", finding, fact.install)
    return Check(fact.name, "ok", f"{fact.path} {fact.version}".rstrip())


def check_kvm(facts: HostFacts) -> Check:
    """Kata needs it; gVisor does without."""
    if facts.may_use_kvm:
        return Check("KVM", "ok", "/dev/kvm can be opened")
    if facts.has_kvm:
        finding = "/dev/kvm is not this user's: gVisor does without, Kata doesn't"
        return Check("KVM", "warning", finding, f"usermod --append --groups kvm {facts.user}")
    finding = "there is no /dev/kvm: gVisor does without, Kata doesn't"
    return Check(
        "KVM", "warning", finding, "modprobe kvm_intel || modprobe kvm_amd; a virtual machine needs nested virtualisation"
    )


def check_folders(facts: HostFacts) -> tuple[Check, ...]:
    if facts.folders_error:
        return (Check("store", "missing", facts.folders_error, facts.folders_hint),)
    return tuple(_check_folder(folder) for folder in facts.folders)


def _check_folder(folder: FolderFact) -> Check:
    if not folder.is_writable:
        remedy = f"use --store PATH, or chown {folder.existing}"
        return Check(folder.name, "missing", f"{folder.path} can't be written to", remedy)
    space = f"{folder.path}, {folder.free_bytes / 1000**3:.1f} GB free"
    if folder.free_bytes < _LOW_SPACE_BYTES:
        return Check(folder.name, "warning", space, "sandboxbuild prune --all, or --store PATH on another disk")
    return Check(folder.name, "ok", space)
