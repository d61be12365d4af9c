"""The driver for runtimes with the OCI command line: runsc, runc, crun and whatever else a file in runtimes/ describes."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Sequence
from typing import Final

from sandboxbuild.errors import IsolationError
from sandboxbuild.runtimes import IdRange, SandboxSpec
from sandboxbuild.runtimes.helper import HelperSandbox, expect, start_helper
from sandboxbuild.runtimes.keeper import ROOTFS, source_path
from sandboxbuild.runtimes.spec import oci_config, with_scratch
from sandboxbuild.system import cgroups

_OPEN_FILES: Final = 65536
_FOLDERS: Final = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


class OciRuntime:
    """Runtime over `binary` (a name or an absolute path), which is called with `arguments` before the command.

    Every sandbox has a keeper process (keeper.py) that is its Sandbox on this side.
    """

    def __init__(self, name: str, binary: str, arguments: Sequence[str] = (), *, python: str = sys.executable) -> None:
        self.name = name
        self._binary = binary
        self._arguments = tuple(arguments)
        self._python = python

    def launch(self, spec: SandboxSpec) -> HelperSandbox:
        """Start the executor; returns when the runtime has made the sandbox. Raises IsolationError with the runtime's words."""
        if os.geteuid() != 0:
            raise IsolationError(f"the runtime {self.name} needs root here", hint="--profile plain works as a normal user")
        binary = find_binary(self._binary)
        spec = with_scratch(spec)
        cgroup = f"{'' if spec.cgroups else '/'}sandboxbuild-{spec.build_id}"  # below the build's own, if it has one
        sources = [source_path(number) for number in range(len(spec.mounts))]
        config = oci_config(spec, sources, ROOTFS, cgroup, _open_files())
        sandbox, channel = start_helper(self._python, "keeper")
        try:
            cgroups.join(spec.cgroups, sandbox.pid)
            channel.send(
                {
                    "arguments": list(self._arguments),
                    "binary": binary,
                    "cgroup": cgroup,
                    "config": config,
                    "gids": _plain(spec.gid_ranges),
                    "mounts": [tuple(mount) for mount in spec.mounts],
                    "name": f"sandboxbuild-{spec.build_id}",
                    "uids": _plain(spec.uid_ranges),
                }
            )
            expect(channel, "started")
        except IsolationError as error:
            sandbox.close()
            raise IsolationError(f"{self.name}: {error.message}", hint=error.hint) from error
        except BaseException:
            sandbox.close()
            raise
        return sandbox


def _plain(ranges: Sequence[IdRange]) -> list[tuple[int, int, int]]:
    return [(entry.inside, entry.outside, entry.length) for entry in ranges]


def _open_files() -> int:
    """What a sandbox may have open: a process in it can't raise the limit that the host gives us."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)


def find_binary(name: str) -> str:
    """The program's path: in system folders only, whatever PATH says, for it runs with the launcher's rights.

    Raises IsolationError.
    """
    for path in (name,) if os.path.isabs(name) else (f"{folder}/{name}" for folder in _FOLDERS):
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    raise IsolationError(f"{name} is not installed", hint="`sandboxbuild doctor` says how to install it")
