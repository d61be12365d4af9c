"""One build's control groups: what they may use together, and each running step by itself.

  BUILD (the bounds of all) - main (the sandbox; a runtime may make more below it)
                            - step-N (one RUN)

Version 2 has no controllers below a group with processes (cgroup-v2, "No Internal Process Constraint"): hence main. What the
kernel counted says afterwards which bound was met, and in which group.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from sandboxbuild.errors import IsolationError
from sandboxbuild.system import cgroups
from sandboxbuild.system.cgroups import Place

_PERIOD_US: Final = 100_000
_REMOVAL_S: Final = 3.0
_ATTEMPTS: Final = 10
_PIDS_CEILING: Final = 4 << 20  # PID_MAX_LIMIT: no kernel has more, and pids.max takes none
_CHARGE_BYTES: Final = 2 << 20  # the most that is asked for at once, a huge page
_MAIN: Final = "main"
_OPTIONAL: Final = frozenset(
    {"memory.use_hierarchy", "memory.memsw.limit_in_bytes", "memory.swap.max", "memory.oom.group"}
)  # not on each kernel


class Bounds(NamedTuple):
    """What the processes of a group may use together; 0 is no bound."""

    memory_bytes: int = 0
    pids: int = 0
    cpus: float = 0.0


class StepGroup:
    """One step's group in each hierarchy; made by BuildGroup.add_step."""

    def __init__(self, places: Mapping[str, Place], bounds: Bounds) -> None:
        """`places` are the new groups' folders, with what can be limited there. Raises IsolationError."""
        self._places = places
        self._bounds = bounds
        for folder in places:
            _make(folder)
        _limit(places, bounds)

    def join(self, pid: int) -> None:
        """Put a process in, with all that it will start. Raises IsolationError."""
        cgroups.join(tuple(self._places), pid)

    def exceeded(self) -> str:
        """The bound that was met: memory (the kernel has killed a process for it), pids (no more can be started), or ""."""
        for folder, place in self._places.items():
            if "memory" in place.controllers and _ran_out_of_memory(place, folder, [folder]):
                return "memory"
            if self._bounds.pids and "pids" in place.controllers and _ran_out_of_pids(folder, [folder], self._bounds.pids):
                return "pids"
        return ""

    def remove(self) -> bool:
        """Take it away if it is empty: whether it was."""
        left = [folder for folder in self._places if not cgroups.remove(folder, 0)]
        return not left


class BuildGroup:
    """One build's groups in each of `places`; the sandbox's first process is put into `folders`. Not thread-safe."""

    def __init__(self, places: Sequence[Place], build_id: str) -> None:
        """Raises IsolationError where none can be made."""
        self._places: dict[str, Place] = {}
        self._locks: list[int] = []
        self._pids = 0
        try:
            for place in places:
                self._make(place, f"{place.folder}/{cgroups.PREFIX}{build_id}")
        except OSError as error:
            self.close()
            raise IsolationError(f"the build's cgroup can't be made: {error.strerror}: {error.filename}") from error

    def _make(self, place: Place, folder: str) -> None:
        os.mkdir(folder, 0o755)
        for _ in range(_ATTEMPTS):
            try:
                self._locks.append(os.open(folder, cgroups.OPEN_FOLDER))
                fcntl.flock(self._locks[-1], fcntl.LOCK_EX)
                if os.path.samestat(os.fstat(self._locks[-1]), os.stat(folder)):
                    break
            except FileNotFoundError:
                os.mkdir(folder, 0o755)  # somebody took it for a leftover before it was locked
        self._places[folder] = place
        if place.version == 2:
            cgroups.write(f"{folder}/cgroup.subtree_control", " ".join(f"+{name}" for name in place.controllers))
        os.mkdir(f"{folder}/{_MAIN}", 0o755)

    @property
    def folders(self) -> tuple[str, ...]:
        return tuple(f"{folder}/{_MAIN}" for folder in self._places)

    def limit(self, bounds: Bounds) -> None:
        """What all of the build may use together. Raises IsolationError."""
        self._pids = bounds.pids
        _limit(self._places, bounds)

    def add_step(self, number: int, bounds: Bounds) -> StepGroup:
        """A group of its own for one step. Raises IsolationError."""
        return StepGroup({f"{folder}/step-{number}": place for folder, place in self._places.items()}, bounds)

    def find(self, pid: int, namespace: int) -> int:
        """Our pid of the sandbox's process that has `pid` in the pid namespace of inode `namespace`; 0 where there is none."""
        for process in self._processes():
            if _namespace_of(process) == namespace and _innermost_pid(process) == pid:
                return process
        return 0

    def _processes(self) -> Iterator[int]:
        for folder in self.folders[:1]:
            for group in (folder, *cgroups.below(folder)):
                yield from map(int, cgroups.read(f"{group}/cgroup.procs").split())

    def exceeded(self) -> str:
        """As of a step, for the bounds of all together; a step that met its own doesn't count."""
        for folder, place in self._places.items():
            inner = list(cgroups.below(folder))
            if "memory" in place.controllers:
                blameless = [group for group in inner if not _was_full(group)]
                if _ran_out_of_memory(place, folder, [folder, *blameless]):
                    return "memory"
            if self._pids and "pids" in place.controllers:
                main = [group for group in inner if f"{group}/".startswith(f"{folder}/{_MAIN}/")]
                if _ran_out_of_pids(folder, main, self._pids):
                    return "pids"
        return ""

    def close(self) -> None:
        """Remove the groups, with what is left in them. Idempotent."""
        for folder in tuple(self._places):
            cgroups.kill(folder)
            cgroups.remove(folder, _REMOVAL_S)
            del self._places[folder]
        while self._locks:
            os.close(self._locks.pop())


def _make(folder: str) -> None:
    try:
        os.mkdir(folder, 0o755)
    except OSError as error:
        raise IsolationError(f"a step's cgroup can't be made: {error.strerror}: {folder}") from error


def _limit(places: Mapping[str, Place], bounds: Bounds) -> None:
    for folder, place in places.items():
        for name, value in _values(place, bounds).items():
            _set(folder, name, value)


def _set(folder: str, name: str, value: str) -> None:
    try:
        cgroups.write(f"{folder}/{name}", value)
    except OSError as error:
        if name not in _OPTIONAL:
            raise IsolationError(f"the limit {name} can't be set to {value}: {error.strerror}") from error


def _values(place: Place, bounds: Bounds) -> Mapping[str, str]:
    """The files to write, in order: without swap, since a limit that moves to the disk is none."""
    values: dict[str, str] = {}
    if bounds.memory_bytes and "memory" in place.controllers:
        size = str(bounds.memory_bytes)
        if place.version == 1:
            values |= {"memory.use_hierarchy": "1", "memory.limit_in_bytes": size, "memory.memsw.limit_in_bytes": size}
        else:
            values |= {"memory.max": size, "memory.swap.max": "0", "memory.oom.group": "1"}
    if bounds.pids and "pids" in place.controllers:
        values["pids.max"] = str(min(bounds.pids, _PIDS_CEILING))
    if bounds.cpus and "cpu" in place.controllers:
        quota = max(1000, round(bounds.cpus * _PERIOD_US))
        if place.version == 1:
            values |= {"cpu.cfs_period_us": str(_PERIOD_US), "cpu.cfs_quota_us": str(quota)}
        else:
            values["cpu.max"] = f"{quota} {_PERIOD_US}"
    return values


def _ran_out_of_memory(place: Place, folder: str, victims: Sequence[str]) -> bool:
    """Version 2 says whose limit it was. Version 1 counts kills where the process was, and knows each group's peak, page cache
    included: together they say it.
    """
    if place.version == 2:
        return _count(f"{folder}/memory.events.local", "oom") > 0
    return _was_full(folder) and any(_count(f"{group}/memory.oom_control", "oom_kill") for group in victims)


def _was_full(folder: str) -> bool:
    """Whether a group's own limit was met; version 1. (Its failcnt isn't kept for memory and swap together in Linux 6.18.)"""
    return any(
        _number(f"{folder}/{kind}.max_usage_in_bytes") + _CHARGE_BYTES > _number(f"{folder}/{kind}.limit_in_bytes") > 0
        for kind in ("memory", "memory.memsw")
    )


def _number(path: str) -> int:
    text = cgroups.read(path).strip()
    return int(text) if text.isdecimal() else 0


def _ran_out_of_pids(folder: str, forking: Sequence[str], limit: int) -> bool:
    """Where a refusal is counted is the kernel's: with the limit (version 2, Linux 6.11), else where the process was."""
    counted = (f"{folder}/pids.events.local", *(f"{group}/pids.events" for group in forking))
    if any(_count(path, "max") for path in counted):
        return True
    current = cgroups.read(f"{folder}/pids.current").strip()
    return current.isdecimal() and int(current) >= limit


def _count(path: str, key: str) -> int:
    for line in cgroups.read(path).splitlines():
        name, _, value = line.partition(" ")
        if name == key and value.isdecimal():
            return int(value)
    return 0


def _namespace_of(process: int) -> int:
    try:
        return os.stat(f"/proc/{process}/ns/pid").st_ino
    except OSError:
        return 0  # ended, or none that we may look at


def _innermost_pid(process: int) -> int:
    for line in cgroups.read(f"/proc/{process}/status").splitlines():
        if line.startswith("NSpid:"):
            return int(line.split()[-1])
    return 0
