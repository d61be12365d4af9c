"""Control groups: where this process can make some, putting processes in, and taking groups away again.

Version 1, version 2 and both at once: the controller is looked for, not the mount. Sources: cgroups(7) and the kernel's
admin-guide, cgroup-v1 and cgroup-v2. A build's group (groups.py) is locked (flock(2) of its folder) while its launcher lives,
so that one without a lock is known for a leftover.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from sandboxbuild.errors import IsolationError

CONTROLLERS: Final = ("memory", "pids", "cpu")
PREFIX: Final = "sandboxbuild-build-"
OPEN_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Place(NamedTuple):
    """A folder in which groups with `controllers` can be made."""

    version: int
    folder: str
    controllers: tuple[str, ...]


class Hierarchy(NamedTuple):
    """A mounted hierarchy, and our own group's folder in it."""

    version: int
    mount: str
    own: str
    controllers: tuple[str, ...]


def hierarchies(mountinfo: str, own_groups: str) -> tuple[Hierarchy, ...]:
    """The hierarchies of /proc/self/mountinfo, with the places that /proc/self/cgroup says we have in them."""
    found = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind, *rest = after.split(" ")
        if kind not in ("cgroup", "cgroup2") or len(before.split(" ")) < 5:
            continue
        root, mount = before.split(" ")[3:5]
        controllers = () if kind == "cgroup2" else tuple(sorted(set(rest[-1].split(",")) & set(CONTROLLERS)))
        path = _own_path(own_groups, controllers)
        if kind == "cgroup2" or controllers:
            below = path.removeprefix(root.rstrip("/")) if path.startswith(root.rstrip("/")) else ""
            own = mount + below.rstrip("/") if "/.." not in below else mount
            found.append(Hierarchy(2 if kind == "cgroup2" else 1, mount, own, controllers))
    return tuple(found)


def _own_path(own_groups: str, controllers: Sequence[str]) -> str:
    for line in own_groups.splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if (not names and not controllers) or (controllers and set(controllers) <= set(names.split(","))):
            return path
    return "/"


def kind_of(found: Sequence[Hierarchy]) -> str:
    """ "version 1", "version 2", "hybrid" or "none", for doctor."""
    versions = {entry.version for entry in found}
    return {frozenset({1}): "version 1", frozenset({2}): "version 2", frozenset({1, 2}): "hybrid"}.get(
        frozenset(versions), "none"
    )


def read_hierarchies() -> tuple[Hierarchy, ...]:
    """Those of this process."""
    return hierarchies(read("/proc/self/mountinfo"), read("/proc/self/cgroup"))


def find_places(found: Sequence[Hierarchy]) -> tuple[Place, ...]:
    """Where this process can make groups, each controller at most once."""
    places: list[Place] = []
    for entry in found:
        missing = [name for name in CONTROLLERS if not any(name in place.controllers for place in places)]
        place = _place_in_version_2(entry, missing) if entry.version == 2 else _place_in_version_1(entry, missing)
        if place is not None:
            places.append(place)
    return tuple(places)


def covers(places: Sequence[Place], *controllers: str) -> bool:
    """Whether groups there can have limits of `controllers`."""
    return set(controllers) <= {name for place in places for name in place.controllers}


def _place_in_version_1(entry: Hierarchy, wanted: Sequence[str]) -> Place | None:
    controllers = tuple(name for name in entry.controllers if name in wanted)
    return Place(1, entry.own, controllers) if controllers and _may_make(entry.own) else None


def _place_in_version_2(entry: Hierarchy, wanted: Sequence[str]) -> Place | None:
    """The nearest ancestor that hands its controllers down; our own group can't, while it has processes (cgroup-v2,
    "No Internal Process Constraint")."""
    folder = entry.own
    while wanted and folder.startswith(entry.mount):
        controllers = set(read(f"{folder}/cgroup.subtree_control").split()) & set(wanted)
        if controllers and _may_make(folder) and os.access(f"{folder}/cgroup.procs", os.W_OK):
            return Place(2, folder, tuple(sorted(controllers)))
        if folder == entry.mount:
            break
        folder = os.path.dirname(folder)
    return None


def _may_make(folder: str) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


def join(folders: Sequence[str], pid: int) -> None:
    """Put a process, and so all that it will start, into groups. Raises IsolationError."""
    for folder in folders:
        try:
            write(f"{folder}/cgroup.procs", str(pid))
        except OSError as error:
            raise IsolationError(f"the sandbox can't be put into its cgroup {folder}: {error.strerror}") from error


def sweep(places: Sequence[Place]) -> None:
    """Remove the empty groups of builds that were killed, launcher and all."""
    for place in places:
        try:
            names = os.listdir(place.folder)
        except OSError:
            continue
        for name in names:
            if name.startswith(PREFIX):
                _sweep_one(f"{place.folder}/{name}")


def _sweep_one(folder: str) -> None:
    try:
        lock = os.open(folder, OPEN_FOLDER)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove(folder, 0)
    except OSError:
        pass  # a build has it
    finally:
        os.close(lock)


def kill(folder: str) -> None:
    """Every process of the group, at once; version 2 since Linux 5.14, else nothing."""
    if os.path.exists(f"{folder}/cgroup.kill"):
        try:
            write(f"{folder}/cgroup.kill", "1")
        except OSError:
            pass  # removing it waits for them


def remove(folder: str, patience_s: float) -> bool:
    """Remove a group and those below it: whether it is gone. Processes that are about to end are waited for; never raises."""
    deadline = time.monotonic() + patience_s
    while not (gone := _removed(folder)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return gone


def _removed(folder: str) -> bool:
    try:
        for inner in below(folder):
            os.rmdir(inner)
        os.rmdir(folder)
    except OSError as error:
        return error.errno != errno.EBUSY
    return True


def below(folder: str) -> Iterator[str]:
    """The groups below, the deepest first."""
    for parent, names, _ in os.walk(folder, topdown=False):
        yield from (f"{parent}/{name}" for name in names)


def read(path: str) -> str:
    """A file's text; "" where there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def write(path: str, value: str) -> None:
    """Raises OSError with what the kernel says of the value."""
    with open(path, "w", encoding="ascii") as stream:
        stream.write(value)
