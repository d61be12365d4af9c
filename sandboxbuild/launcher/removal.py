"""Removing unpacked layers as a normal user: their owners are subordinate ids, which only a user namespace can act for.

A child process makes the namespace, newuidmap(1) and newgidmap(1) map the ids, and the child removes what it was told to, by
descriptor and without following a link.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Final

from sandboxbuild.errors import SandboxbuildError
from sandboxbuild.system import idmap, namespaces
from sandboxbuild.system.files import remove_tree

_PACKAGE_PARENT: Final = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_BOOT: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); from sandboxbuild.launcher import removal; removal.main(sys.argv[2])"
)


def remover(plan: idmap.IdPlan) -> Callable[[str], None] | None:
    """What removes a tree by its absolute path; None where plain removal does, for root and for a single id."""
    if os.geteuid() == 0 or plan.mode != "range":
        return None
    return lambda path: remove_mapped(path, plan)


def remove_mapped(path: str, plan: idmap.IdPlan) -> None:
    """Remove `path` and all below it, whoever of the mapped ids owns it. Raises SandboxbuildError."""
    tools = idmap.newuidmap_paths()
    if tools is None:
        raise SandboxbuildError(f"{path} can't be removed without newuidmap", hint="apt-get install uidmap")
    command = [sys.executable, "-I", "-S", "-c", _BOOT, _PACKAGE_PARENT, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None and child.stdout is not None, "both are pipes"
        if child.stdout.read(1) == b"u":
            for tool, ranges in zip(tools, (plan.uids, plan.gids), strict=True):
                numbers = [str(number) for entry in ranges for number in entry]
                subprocess.run([tool, str(child.pid), *numbers], check=False)
            child.stdin.write(b"m")
        child.stdin.close()
    if child.returncode != 0:
        raise SandboxbuildError(f"{path} can't be removed: its owners are ids that could not be mapped")


def main(path: str) -> None:
    """The child. Has every right over the mapped ids as soon as they are mapped, and none before."""
    namespaces.unshare(namespaces.NEWUSER)
    os.write(1, b"u")
    if os.read(0, 1) != b"m":
        sys.exit(1)
    folder, name = os.path.split(path)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    remove_tree(fd, name)
