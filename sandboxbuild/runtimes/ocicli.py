"""The driver for runtimes with the OCI command line: runsc, runc, crun and whatever else a file in runtimes/ describes."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Sequence
from typing import Final

from sandboxbuild.errors import IsolationError
from sandboxbuild.runtimes import SandboxSpec
from sandboxbuild.runtimes.helper import HelperSandbox, expect, start_helper
from sandboxbuild.runtimes.idmaps import has_single_id, identical, write_maps
from sandboxbuild.runtimes.keeper import ROOTFS, source_path
from sandboxbuild.runtimes.spec import oci_config, with_scratch
from sandboxbuild.system import cgroups

PATIENCE_S: Final = 60.0  # for a runtime on a loaded machine
_OPEN_FILES: Final = 65536
_FOLDERS: Final = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


class OciRuntime:
    """Runtime over `binary` (a name or an absolute path), which is called with `arguments` before the command.

    With `filtered` it is asked for a filter over the whole sandbox. It has `patience_s` for starting one. Every sandbox has a
    keeper process (keeper.py) that is its Sandbox on this side.
    """

    def __init__(
        self,
        name: str,
        binary: str,
        arguments: Sequence[str] = (),
        *,
        filtered: bool = False,
        patience_s: float = PATIENCE_S,
        python: str = sys.executable,
    ) -> None:
        self.name = name
        self._binary = binary
        self._arguments = tuple(arguments)
        self._filtered = filtered
        self._patience_s = patience_s
        self._python = python

    def launch(self, spec: SandboxSpec) -> HelperSandbox:
        """Start the executor; returns when the runtime has made the sandbox. Raises IsolationError with the runtime's words."""
        binary = find_binary(self._binary)
        sandbox, channel = start_helper(self._python, "keeper")
        try:
            cgroups.join(spec.cgroups, sandbox.pid)
            channel.send(self._setup(binary, spec))
            if os.geteuid() != 0:
                expect(channel, "unshared")
                write_maps(sandbox.pid, spec)
                channel.send(("mapped",))
            expect(channel, "started")
        except IsolationError as error:
            sandbox.close()
            raise IsolationError(f"{self.name}: {error.message}", hint=error.hint) from error
        except BaseException:
            sandbox.close()
            raise
        return sandbox

    def _setup(self, binary: str, spec: SandboxSpec) -> dict[str, object]:
        """What keeper.Setup takes. A user's keeper is in a user namespace with the sandbox's maps: there ids are themselves."""
        spec = with_scratch(spec)
        is_root = os.geteuid() == 0
        if not is_root:
            spec = spec._replace(uid_ranges=identical(spec.uid_ranges), gid_ranges=identical(spec.gid_ranges))
        # Below the build's own, if it has one; a user's runtime is refused any other than that.
        cgroup = f"{'' if spec.cgroups else '/'}sandboxbuild-{spec.build_id}" if is_root else ""
        sources = [source_path(number) for number in range(len(spec.mounts))]
        return {
            "arguments": list(self._arguments),
            "binary": binary,
            "cgroup": cgroup,
            "config": oci_config(spec, sources, ROOTFS, cgroup, _open_files(), filtered=self._filtered),
            "gids": [tuple(entry) for entry in spec.gid_ranges],
            "groups_denied": has_single_id(spec),
            "mounts": [tuple(mount) for mount in spec.mounts],
            "name": f"sandboxbuild-{spec.build_id}",
            "patience_s": self._patience_s,
            "rootless": not is_root,
            "uids": [tuple(entry) for entry in spec.uid_ranges],
        }


def _open_files() -> int:
    """What a sandbox may have open: a process in it can't raise the limit that the host gives us."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)


def find_binary(name: str, install: str = "") -> str:
    """The program's path: in system folders only, whatever PATH says, for it runs with the launcher's rights.

    Raises IsolationError, with the command that would install it as its hint.
    """
    for path in (name,) if os.path.isabs(name) else (f"{folder}/{name}" for folder in _FOLDERS):
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    raise IsolationError(f"{name} is not installed", hint=install or "`sandboxbuild doctor` says what is missing")
