"""The limits that are held from outside the sandbox: by cgroups, else by looking at its processes.

Memory, pids and cpu are each step's, in a cgroup of its own, and the build's cgroup holds what that comes to for all. Where a
step can't have one (its processes aren't the host's, or there are no cgroups), the whole sandbox has what a step may have.
Disk, inodes, output and time are the executor's to watch.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from sandboxbuild.errors import LimitExceeded
from sandboxbuild.launcher.stepgroups import StepGroups
from sandboxbuild.policy.isolation import StepIsolation
from sandboxbuild.runtimes import Sandbox
from sandboxbuild.system import cgroups
from sandboxbuild.system.groups import Bounds, BuildGroup

SWITCH: Final = "SANDBOXBUILD_CGROUPS"  # "off" keeps cgroups out of use
_NEEDED: Final = ("memory", "pids")  # users are often given these and no others
POLL_S: Final = 0.1
HEADROOM_BYTES: Final = 1 << 30  # above the limit, a process can have no more even between two looks
# What the executor itself may use beside its steps: it unpacks, compresses and carries connections.
EXECUTOR: Final = Bounds(memory_bytes=1 << 30, pids=2048, cpus=1.0)
_LARGEST: Final = 1 << 62  # bytes
_REMEDY: Final = "raise limits.{0} in the policy, or let the build use less (--jobs=1 runs one step at a time)"


def host_facts(environ: Mapping[str, str]) -> frozenset[str]:
    """What can be had here, as facts for runtimes/*.toml: `cgroup` (for memory and pids), `cgroup_cpu` and `polling`."""
    facts = set()
    places = host_places(environ)
    if cgroups.covers(places, *_NEEDED):
        facts.add("cgroup")
        if cgroups.covers(places, "cpu"):
            facts.add("cgroup_cpu")
    if os.geteuid() == 0 or "hidepid=" not in _proc_options():
        facts.add("polling")
    return frozenset(facts)


def host_places(environ: Mapping[str, str]) -> tuple[cgroups.Place, ...]:
    """Where groups can be made; nowhere if the operator says so."""
    return () if environ.get(SWITCH) == "off" else cgroups.find_places(cgroups.read_hierarchies())


def _proc_options() -> str:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as stream:
        return " ".join(line for line in stream if " - proc " in line)


class BuildLimits:
    """One build's limits; made by `build_limits`."""

    def __init__(self, step: StepIsolation, bounds: Bounds, group: BuildGroup | None, steps: StepGroups | None) -> None:
        """`bounds` are those of the whole sandbox, held by `group` if there is one; `steps` makes a group for each step."""
        self._step = step
        self._bounds = bounds
        self._group = group
        self.steps = steps
        self._met = ""

    @property
    def folders(self) -> tuple[str, ...]:
        """The cgroups that the sandbox's first process has to be put in."""
        return self._group.folders if self._group else ()

    @property
    def step(self) -> StepIsolation:
        """What the step is told: where nothing holds memory by itself, a bound for each process too."""
        bound = self._step.memory_bytes + HEADROOM_BYTES if self._step.memory_bytes and not self._group else 0
        return self._step._replace(process_memory_bytes=bound)

    @contextmanager
    def watching(self, sandbox: Sandbox) -> Iterator[None]:
        """Kill the sandbox when it passes a limit. Raises LimitExceeded, whatever else has come of the build."""
        if not (self._bounds.memory_bytes or self._bounds.pids):
            yield
            return
        ended = threading.Event()
        thread = threading.Thread(target=self._watch, args=(sandbox, ended), name="limits")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self._met = self._met or (self._group.exceeded() if self._group else "")
            if self._met:
                raise self._error()

    def _watch(self, sandbox: Sandbox, ended: threading.Event) -> None:
        while not ended.wait(POLL_S):
            self._met = self._group.exceeded() if self._group else self._look(sandbox.pid)
            if self._met:
                sandbox.kill()
                return

    def _look(self, pid: int) -> str:
        from sandboxbuild.system.process import tree_usage

        used = tree_usage(pid)
        if self._bounds.memory_bytes and used.memory_bytes > self._bounds.memory_bytes:
            return "memory"
        return "pids" if self._bounds.pids and used.tasks >= self._bounds.pids else ""

    def _error(self) -> LimitExceeded:
        bounds = self._bounds
        what = f"{bounds.memory_bytes} bytes of memory" if self._met == "memory" else f"{bounds.pids} processes and threads"
        return LimitExceeded(f"the build passed its limit of {what} (limits.{self._met})", hint=_REMEDY.format(self._met))


@contextmanager
def build_limits(
    step: StepIsolation, build_id: str, environ: Mapping[str, str], *, jobs: int, by_step: bool
) -> Iterator[BuildLimits]:
    """The limits of `step` for one build of at most `jobs` steps at once; cgroups are made where there can be some, and removed
    afterwards. `by_step` says that the steps' processes are the host's, so that each can be put into a cgroup of its own.

    Enter it before the sandbox is started, so that it is left when the sandbox is gone. Raises IsolationError.
    """
    bounds = Bounds(step.memory_bytes, step.pids, step.cpus)
    places = host_places(environ) if any(bounds) else ()
    if not cgroups.covers(places, *_NEEDED):
        yield BuildLimits(step, bounds, None, None)
        return
    cgroups.sweep(places)
    group = BuildGroup(places, build_id)
    whole = together(bounds, jobs) if by_step else bounds
    try:
        group.limit(whole)
        yield BuildLimits(step, whole, group, StepGroups(group, bounds, jobs) if by_step else None)
    finally:
        group.close()


def together(step: Bounds, jobs: int) -> Bounds:
    """What `jobs` steps at once, each within `step`, and the executor may come to."""
    return Bounds(
        memory_bytes=min(step.memory_bytes * jobs + EXECUTOR.memory_bytes, _LARGEST) if step.memory_bytes else 0,
        pids=step.pids * jobs + EXECUTOR.pids if step.pids else 0,
        cpus=step.cpus * jobs + EXECUTOR.cpus if step.cpus else 0.0,
    )
