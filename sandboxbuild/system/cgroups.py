"""A build's own control groups: where they can be made, their limits, and what the kernel says of them afterwards.

Version 1, version 2 and both at once: the controller is looked for, not the mount. Sources: cgroups(7) and the kernel's
admin-guide, cgroup-v1 and cgroup-v2. A group is locked (flock(2) of its folder) while its launcher lives, so that one without a
lock is known for a leftover.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from sandboxbuild.errors import IsolationError

CONTROLLERS: Final = ("memory", "pids", "cpu")
PREFIX: Final = "sandboxbuild-build-"
_PERIOD_US: Final = 100_000
_REMOVAL_S: Final = 3.0
_ATTEMPTS: Final = 10
_OPEN_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPTIONAL: Final = frozenset({"memory.memsw.limit_in_bytes", "memory.swap.max", "memory.oom.group"})  # not on each kernel


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
    return hierarchies(_read("/proc/self/mountinfo"), _read("/proc/self/cgroup"))


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
        controllers = set(_read(f"{folder}/cgroup.subtree_control").split()) & set(wanted)
        if controllers and _may_make(folder) and os.access(f"{folder}/cgroup.procs", os.W_OK):
            return Place(2, folder, tuple(sorted(controllers)))
        if folder == entry.mount:
            break
        folder = os.path.dirname(folder)
    return None


def _may_make(folder: str) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


class Group:
    """One build's group in each of `places`; the build's first process is put in by `join`. Used by one thread at a time."""

    def __init__(self, places: Sequence[Place], build_id: str) -> None:
        """Raises IsolationError where none can be made."""
        self._places: dict[str, Place] = {}
        self._locks: list[int] = []
        self._pids = 0
        self._nested = False
        self._kills_before = count_kills()
        try:
            for place in places:
                self._make(place, f"{place.folder}/{PREFIX}{build_id}")
        except OSError as error:
            self.close()
            raise IsolationError(f"the build's cgroup can't be made: {error.strerror}: {error.filename}") from error

    def _make(self, place: Place, folder: str) -> None:
        os.mkdir(folder, 0o755)
        for _ in range(_ATTEMPTS):
            try:
                self._locks.append(os.open(folder, _OPEN_FOLDER))
                fcntl.flock(self._locks[-1], fcntl.LOCK_EX)
                if os.path.samestat(os.fstat(self._locks[-1]), os.stat(folder)):
                    break
            except FileNotFoundError:
                os.mkdir(folder, 0o755)  # somebody took it for a leftover before it was locked
        self._places[folder] = place

    @property
    def folders(self) -> tuple[str, ...]:
        return tuple(self._places)

    def limit(self, *, memory_bytes: int, pids: int, cpus: float) -> None:
        """Set the limits; 0 is none. Raises IsolationError."""
        self._pids = pids
        for folder, place in self._places.items():
            for name, value in _values(place, memory_bytes, pids, cpus).items():
                try:
                    _write(f"{folder}/{name}", value)
                except OSError as error:
                    if name in _OPTIONAL:
                        continue
                    raise IsolationError(f"the limit {name} can't be set to {value}: {error.strerror}") from error

    def exceeded(self) -> str:
        """The limit that was met: memory (the kernel has killed a process for it), pids (a fork was refused), or ""."""
        for folder, place in self._places.items():
            below = list(_below(folder))
            self._nested = self._nested or bool(below)
            if "memory" in place.controllers and self._out_of_memory(place, folder, below):
                return "memory"
            if self._pids and "pids" in place.controllers and self._out_of_pids(folder, below):
                return "pids"
        return ""

    def _out_of_memory(self, place: Place, folder: str, below: Sequence[str]) -> bool:
        """Version 1 counts a kill where the process was, and a runtime's group below ours may be gone by now: then a kill
        anywhere and a limit of ours that was reached say it together."""
        events = "memory.oom_control" if place.version == 1 else "memory.events"
        if any(_count(f"{group}/{events}", "oom_kill") for group in (folder, *below)):
            return True
        killed = place.version == 1 and self._nested and count_kills() > self._kills_before
        return killed and _read(f"{folder}/memory.failcnt").strip() not in ("", "0")

    def _out_of_pids(self, folder: str, below: Sequence[str]) -> bool:
        if any(_count(f"{group}/pids.events", "max") for group in (folder, *below)):
            return True
        current = _read(f"{folder}/pids.current").strip()
        return current.isdecimal() and int(current) >= self._pids

    def close(self) -> None:
        """Remove the group, with what is left in it. Idempotent."""
        for folder in tuple(self._places):
            kill(folder)
            remove(folder, _REMOVAL_S)
            del self._places[folder]
        while self._locks:
            os.close(self._locks.pop())


def _values(place: Place, memory_bytes: int, pids: int, cpus: float) -> Mapping[str, str]:
    """The files to write, in order: without swap, since a limit that moves to the disk is none."""
    values: dict[str, str] = {}
    if memory_bytes and "memory" in place.controllers:
        names = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes") if place.version == 1 else ("memory.max",)
        values |= dict.fromkeys(names, str(memory_bytes))
        if place.version == 2:
            values |= {"memory.swap.max": "0", "memory.oom.group": "1"}
    if pids and "pids" in place.controllers:
        values["pids.max"] = str(pids)
    if cpus and "cpu" in place.controllers:
        quota = max(1000, round(cpus * _PERIOD_US))
        if place.version == 1:
            values |= {"cpu.cfs_period_us": str(_PERIOD_US), "cpu.cfs_quota_us": str(quota)}
        else:
            values["cpu.max"] = f"{quota} {_PERIOD_US}"
    return values


def count_kills() -> int:
    """Processes that the kernel has killed for want of memory since boot (proc_vmstat, oom_kill); 0 where it doesn't say."""
    return _count("/proc/vmstat", "oom_kill")


def join(folders: Sequence[str], pid: int) -> None:
    """Put a process, and so all that it will start, into groups. Raises IsolationError."""
    for folder in folders:
        try:
            _write(f"{folder}/cgroup.procs", str(pid))
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
        lock = os.open(folder, _OPEN_FOLDER)
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
            _write(f"{folder}/cgroup.kill", "1")
        except OSError:
            pass  # removing it waits for them


def remove(folder: str, patience_s: float) -> None:
    """Remove a group and those below it. Processes that are about to end are waited for; never raises."""
    deadline = time.monotonic() + patience_s
    while not _removed(folder) and time.monotonic() < deadline:
        time.sleep(0.01)


def _removed(folder: str) -> bool:
    try:
        for below in _below(folder):
            os.rmdir(below)
        os.rmdir(folder)
    except OSError as error:
        return error.errno != errno.EBUSY
    return True


def _below(folder: str) -> Iterator[str]:
    """Groups below, the deepest first."""
    for parent, names, _ in os.walk(folder, topdown=False):
        yield from (f"{parent}/{name}" for name in names)


def _count(path: str, key: str) -> int:
    for line in _read(path).splitlines():
        name, _, value = line.partition(" ")
        if name == key and value.isdecimal():
            return int(value)
    return 0


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def _write(path: str, value: str) -> None:
    with open(path, "w", encoding="ascii") as stream:
        stream.write(value)
