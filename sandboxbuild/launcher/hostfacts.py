"""What doctor looks at on a host, collected once: so that what it makes of that is a function of these values."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from typing import Final, NamedTuple

from sandboxbuild.errors import SandboxbuildError
from sandboxbuild.launcher.stores import bundle_folder, store_path
from sandboxbuild.system import cgroups, idmap, seccomp

KNOBS: Final = (
    "kernel/unprivileged_userns_clone",
    "kernel/apparmor_restrict_unprivileged_userns",
    "kernel/yama/ptrace_scope",
    "user/max_user_namespaces",
)
KVM: Final = "/dev/kvm"
_TRY_UNSHARE: Final = "from sandboxbuild.system import namespaces as n; n.unshare(n.NEWUSER | n.NEWNS | n.NEWPID | n.NEWNET)"


class RuntimeFact(NamedTuple):
    """An OCI runtime's program: `path` "" where it isn't installed, `version` "" where it says none."""

    name: str
    binary: str
    path: str
    version: str
    minimum: str
    install: str


class FolderFact(NamedTuple):
    """A folder that builds write to, or the nearest that is there above it."""

    name: str
    path: str
    existing: str
    is_writable: bool
    free_bytes: int


class HostFacts(NamedTuple):
    """`unshare_error` is "" where user namespaces can be made; `knobs` are files of /proc/sys, "" for what isn't there."""

    is_root: bool
    user: str
    kernel: str
    unshare_error: str
    knobs: Mapping[str, str]
    ids: idmap.IdPlan | None
    ids_error: str
    ids_hint: str
    filesystems: str
    libseccomp: str
    hierarchies: tuple[cgroups.Hierarchy, ...]
    has_kvm: bool
    may_use_kvm: bool
    runtimes: tuple[RuntimeFact, ...] = ()
    folders: tuple[FolderFact, ...] = ()
    folders_error: str = ""
    folders_hint: str = ""


def collect(environ: Mapping[str, str], store: str = "") -> HostFacts:
    """The facts of this host. Starts a process or two; never raises."""
    ids, ids_error, ids_hint = _ids()
    facts = HostFacts(
        is_root=os.geteuid() == 0,
        user=environ.get("USER", "") or str(os.geteuid()),
        kernel=os.uname().release,
        unshare_error=_try_unshare(),
        knobs={knob: _read(f"/proc/sys/{knob}").strip() for knob in KNOBS},
        ids=ids,
        ids_error=ids_error,
        ids_hint=ids_hint,
        filesystems=_read("/proc/filesystems"),
        libseccomp=seccomp.library_version(),
        hierarchies=cgroups.read_hierarchies(),
        has_kvm=os.path.exists(KVM),
        may_use_kvm=os.access(KVM, os.R_OK | os.W_OK),
        runtimes=_runtimes(environ),
    )
    try:
        return facts._replace(folders=_folders(environ, store, is_root=facts.is_root))
    except SandboxbuildError as error:
        return facts._replace(folders_error=error.message, folders_hint=error.hint)


def _ids() -> tuple[idmap.IdPlan | None, str, str]:
    try:
        return idmap.find(), "", ""
    except SandboxbuildError as error:
        return None, error.message, error.hint


def _try_unshare() -> str:
    """Make some namespaces, in a process of its own: what it says when it can't."""
    package_parent = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    argv = [sys.executable, "-c", _TRY_UNSHARE]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30, cwd=package_parent)
    return "" if done.returncode == 0 else done.stderr.strip().rpartition("\n")[2] or "refused"


def _runtimes(environ: Mapping[str, str]) -> tuple[RuntimeFact, ...]:
    """Of each file in runtimes/ that names a program; one that can't be read is `policy check`'s to tell."""
    from sandboxbuild.policy.library import RUNTIMES, library
    from sandboxbuild.policy.runtime import load_runtime

    found = library(environ)
    facts = []
    for name in found.names(RUNTIMES):
        try:
            values = load_runtime(found, name).values
        except SandboxbuildError:
            continue
        if values.driver == "ocicli":
            path, version = _program(values.binary, values.probe.arguments, values.probe.minimum)
            facts.append(RuntimeFact(name, values.binary, path, version, values.probe.minimum, values.probe.install))
    return tuple(facts)


def _program(binary: str, arguments: list[str], minimum: str) -> tuple[str, str]:
    from sandboxbuild.runtimes.ocicli import find_binary
    from sandboxbuild.runtimes.probe import version_of

    path = ""
    try:
        path = find_binary(binary)
        return path, version_of(path, arguments, minimum) if arguments else ""
    except SandboxbuildError:
        return path, ""


def _folders(environ: Mapping[str, str], store: str, *, is_root: bool) -> tuple[FolderFact, ...]:
    places = (("store", store_path(store, environ, is_root=is_root)), ("cache", bundle_folder(environ, is_root=is_root)))
    return tuple(_folder(name, path) for name, path in places)


def _folder(name: str, path: str) -> FolderFact:
    existing = path
    while not os.path.isdir(existing):
        existing = os.path.dirname(existing)
    return FolderFact(name, path, existing, os.access(existing, os.W_OK | os.X_OK), shutil.disk_usage(existing).free)


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as stream:
            return stream.read(65536)
    except OSError:
        return ""
