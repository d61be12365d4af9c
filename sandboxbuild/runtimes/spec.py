"""The OCI runtime-spec document for a sandbox. Pure: what is written here is all that a runtime gets to know.

No path of /proc is masked: a step mounts a /proc of its own, and the kernel only allows that where the outer one is whole
(user_namespaces(7)). What must not be touched in it belongs to ids that the sandbox doesn't have.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

from sandboxbuild.protocol.request import SCRATCH_PATH
from sandboxbuild.runtimes import IdRange, SandboxMount, SandboxSpec
from sandboxbuild.system import capabilities
from sandboxbuild.system.capabilities import IDENTITY_VARIABLE

OCI_VERSION: Final = "1.0.2"
_TMP_BYTES: Final = 256 << 20
_SHM_BYTES: Final = 64 << 20
# What neither the executor nor a step has a use for, and a kernel most to fear from. Steps have a filter of their own inside.
REFUSED_CALLS: Final = frozenset(
    """acct add_key bpf clock_settime delete_module finit_module init_module io_uring_enter io_uring_register io_uring_setup
    ioperm iopl kexec_file_load kexec_load lookup_dcookie open_by_handle_at perf_event_open quotactl quotactl_fd reboot
    request_key settimeofday swapoff swapon syslog userfaultfd vhangup""".split()  # noqa: SIM905
)

_ENTRIES: Final = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
}

Json = dict[str, Any]


def oci_config(
    spec: SandboxSpec, sources: Sequence[str], rootfs: str, cgroup: str, open_files: int, *, filtered: bool = False
) -> Json:
    """config.json for `spec` with the mounts' sources at `sources`, in their order, and an empty tree at `rootfs`.

    Without a `cgroup` the runtime makes none, or goes on where it is not allowed to: its processes stay in the keeper's.
    With `filtered` the sandbox as a whole is refused REFUSED_CALLS and what the spec adds to them.
    """
    scratch = {mount.target: source for mount, source in zip(spec.mounts, sources, strict=True)}.get(SCRATCH_PATH, "")
    return {
        "annotations": _scratch_hints(scratch) if scratch else {},
        "ociVersion": OCI_VERSION,
        "process": _process(spec, open_files),
        "root": {"path": rootfs, "readonly": True},
        "hostname": "sandbox",
        "mounts": [*_system_mounts(spec), *_bind_mounts(spec, sources)],
        "linux": {
            "namespaces": _namespaces(spec),
            "uidMappings": [_mapping(entry) for entry in spec.uid_ranges],
            "gidMappings": [_mapping(entry) for entry in spec.gid_ranges],
            **({"cgroupsPath": cgroup} if cgroup else {}),
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "maskedPaths": [],
            "readonlyPaths": [],
            **({"seccomp": _sandbox_filter(spec.refused_calls)} if filtered else {}),
        },
    }


def _sandbox_filter(more: Sequence[str]) -> Json:
    """Names that a runtime's libseccomp doesn't know it leaves out (runtime-spec config-linux.md, seccomp). EPERM is all that
    runsc can answer with. Runtimes kill for calls by an entry that isn't listed, which a step's own filter only refuses.
    """
    names = sorted(REFUSED_CALLS.union(more))
    entries = _ENTRIES.get(os.uname().machine, ())
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        **({"architectures": entries} if entries else {}),
        "syscalls": [{"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
    }


def with_scratch(spec: SandboxSpec) -> SandboxSpec:
    """The same with its scratch folder, if any, as a mount."""
    if not spec.scratch:
        return spec
    return spec._replace(mounts=(*spec.mounts, SandboxMount(spec.scratch, SCRATCH_PATH, writable=True)))


def _scratch_hints(source: str) -> Json:
    """To gVisor, whose bind mounts hold no attributes and no whiteouts: make it a tmpfs that keeps its pages in a file there.

    Other runtimes know nothing of these annotations (gVisor, runsc/boot/mount_hints.go).
    """
    hint = "dev.gvisor.spec.mount.scratch"
    return {f"{hint}.source": source, f"{hint}.type": "tmpfs", f"{hint}.share": "container", f"{hint}.options": "rw,nodev"}


def _process(spec: SandboxSpec, open_files: int) -> Json:
    """Uid 0 at first: runsc gives no capabilities to another id, so the executor takes its identity by itself."""
    names = [f"CAP_{name}" for name in capabilities.NAMES[: capabilities.last_of_kernel() + 1]]
    return {
        "terminal": False,
        "user": {"uid": 0, "gid": 0, "umask": 0o022},
        "args": list(spec.argv),
        "env": [f"{name}={value}" for name, value in (*spec.environment, (IDENTITY_VARIABLE, str(spec.identity)))],
        "cwd": "/",
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), names),
        "rlimits": [
            {"type": "RLIMIT_NOFILE", "soft": open_files, "hard": open_files},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        ],
        "noNewPrivileges": False,
    }


def _system_mounts(spec: SandboxSpec) -> list[Json]:
    guarded = ["nosuid", "nodev", "noexec"]
    mounts = [
        _mount("/proc", "proc", guarded),
        _mount("/dev", "tmpfs", ["nosuid", "mode=755", "size=65536k"]),
        _mount("/dev/pts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
        _mount("/dev/shm", "tmpfs", ["nosuid", "nodev", "noexec", "mode=1777", f"size={_SHM_BYTES}"]),  # noqa: S108
        _mount("/tmp", "tmpfs", ["nosuid", "nodev", "mode=1777", f"size={_TMP_BYTES}"]),  # noqa: S108
    ]
    if spec.network == "none":  # a fresh sysfs needs a network namespace of the sandbox's own
        mounts.append(_mount("/sys", "sysfs", [*guarded, "ro"]))
    return mounts


def _bind_mounts(spec: SandboxSpec, sources: Sequence[str]) -> list[Json]:
    return [
        {
            "destination": mount.target,
            "type": "bind",
            "source": source,
            "options": ["rbind", "rw", "nodev"] if mount.writable else ["rbind", "ro", "nosuid", "nodev"],
        }
        for mount, source in zip(spec.mounts, sources, strict=True)
    ]


def _mount(target: str, kind: str, options: list[str]) -> Json:
    return {"destination": target, "type": kind, "source": kind, "options": options}


def _namespaces(spec: SandboxSpec) -> list[Json]:
    kinds = ["pid", "ipc", "uts", "mount", "user"]
    return [{"type": kind} for kind in (*kinds, *(("network",) if spec.network == "none" else ()))]


def _mapping(entry: IdRange) -> Json:
    return {"containerID": entry.inside, "hostID": entry.outside, "size": entry.length}
