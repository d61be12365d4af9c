"""Where profiles, policies and runtime descriptors are found: the one module of this room that looks at the disk.

The order is: a folder that is given, /etc/sandboxbuild, the user's configuration, what is packaged. A build context is
never looked at.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from typing import Final, NamedTuple

from sandboxbuild.errors import PolicyError
from sandboxbuild.policy.toml import SIZE_LIMIT_BYTES

SYSTEM_FOLDER: Final = "/etc/sandboxbuild"
PROFILES: Final = "profiles"
RUNTIMES: Final = "runtimes"
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,40}", re.ASCII)
_PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Found(NamedTuple):
    """A file's path and bytes."""

    path: str
    data: bytes


class Library(NamedTuple):
    """The folders that are searched, first match wins; each may hold `profiles` and `runtimes`."""

    folders: tuple[str, ...]

    def find(self, kind: str, name: str) -> Found:
        """The file of the profile or runtime `name`. Raises PolicyError that lists what there is."""
        if not _NAME.fullmatch(name):
            raise PolicyError(f"{name[:80]!a} is no name of one of the {kind}")
        for folder in self.folders:
            path = os.path.join(folder, kind, f"{name}.toml")
            if os.path.lexists(path):
                return Found(path, read_file(path))
        known = ", ".join(self.names(kind))
        raise PolicyError(f"there is no {name} among the {kind}", hint=f"there are {known}")

    def names(self, kind: str) -> tuple[str, ...]:
        """The names of all that can be found, sorted."""
        found: set[str] = set()
        for folder in self.folders:
            try:
                files = os.listdir(os.path.join(folder, kind))
            except OSError:
                continue
            found.update(file[:-5] for file in files if file.endswith(".toml") and _NAME.fullmatch(file[:-5]))
        return tuple(sorted(found))


def library(environ: Mapping[str, str], folder: str = "") -> Library:
    """The folders for this user; `folder` is the command line's."""
    home = environ.get("XDG_CONFIG_HOME") or (os.path.join(environ["HOME"], ".config") if environ.get("HOME") else "")
    user = os.path.join(home, "sandboxbuild") if os.path.isabs(home) else ""
    return Library(tuple(filter(None, (folder, SYSTEM_FOLDER, user, packaged_folder()))))


def packaged_folder() -> str:
    """In a wheel the package's own data; in a checkout the folders at its top."""
    data = os.path.join(_PACKAGE, "data")
    return data if os.path.isdir(data) else os.path.dirname(_PACKAGE)


def read_file(path: str) -> bytes:
    """A regular file of reasonable size that not everybody can write. Raises PolicyError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        raise PolicyError(f"{path} can't be read: {getattr(error, 'strerror', None) or 'not a path'}") from error
    try:
        _check_status(path, os.fstat(descriptor).st_mode)
        with os.fdopen(os.dup(descriptor), "rb") as source:
            data = source.read(SIZE_LIMIT_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(data) > SIZE_LIMIT_BYTES:
        raise PolicyError(f"{path} has more than {SIZE_LIMIT_BYTES} bytes, which no policy needs")
    return data


def _check_status(path: str, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise PolicyError(f"{path} is no regular file")
    if mode & stat.S_IWOTH:
        raise PolicyError(f"{path} can be written by everybody, so it is nobody's policy", hint=f"chmod o-w {path}")
