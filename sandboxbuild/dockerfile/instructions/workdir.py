"""WORKDIR, and how a relative path becomes an absolute one."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, NamedTuple

from sandboxbuild.dockerfile.instructions.base import Lowered, Raw, exactly_one, no_nul, read_flags
from sandboxbuild.plan.operations import WorkdirOp

if TYPE_CHECKING:
    from sandboxbuild.dockerfile.scope import Scope


class Workdir(NamedTuple):
    raw: Raw
    path: str
    references: tuple[str, ...] = ()

    def lower(self, scope: Scope) -> Lowered:
        """The directory is made, but for the root."""
        path = scope.expand(self.path)
        no_nul((path,), "WORKDIR")
        scope.lint.relative_workdir(path, scope.workdir_set, self.raw.place)
        scope.workdir_set = True
        absolute = absolute_path(scope.workdir, path)
        # BuildKit's NormalizePath: an absolute path stays as it is, and so does what an empty one leaves alone.
        written = path if path.startswith("/") else absolute if path else scope.config.working_dir or "/"
        scope.config = scope.config._replace(working_dir=written)
        op = None if absolute == "/" else WorkdirOp(absolute, scope.config.user)
        return Lowered(f"WORKDIR {written}", op)


def absolute_path(workdir: str, path: str) -> str:
    """`path` from `workdir`, without dots, double slashes and a last slash. ".." stops at the root."""
    return posixpath.normpath("/" + posixpath.join(workdir, path).lstrip("/"))


def absolute_destination(workdir: str, path: str) -> str:
    """The same for a target of COPY: the slash of a directory stays (`/d/`, `.`, ``, `d/.`)."""
    absolute = absolute_path(workdir, path)
    is_directory = path in ("", ".") or path.endswith(("/", "/."))
    return absolute + "/" if is_directory and absolute != "/" else absolute


def parse_workdir(raw: Raw) -> Workdir:
    path = exactly_one(raw)
    read_flags(raw)
    return Workdir(raw, path)
