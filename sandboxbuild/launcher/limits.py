"""The limits that are held from outside the sandbox: by a cgroup of the build's own, else by looking at its processes.

Disk, inodes, output and time are the executor's to watch, step by step; memory, pids and cpu are the whole sandbox's.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from sandboxbuild.errors import LimitExceeded
from sandboxbuild.policy.isolation import StepIsolation
from sandboxbuild.runtimes import Sandbox
from sandboxbuild.system import cgroups

SWITCH: Final = "SANDBOXBUILD_CGROUPS"  # "off" keeps cgroups out of use
_NEEDED: Final = ("memory", "pids")  # users are often given these and no others
POLL_S: Final = 0.1
HEADROOM_BYTES: Final = 1 << 30  # above the limit, a process can have no more even between two looks
_REMEDY: Final = "raise limits.{0} in the policy, or let the build use less (--jobs=1 runs one step at a time)"


def host_facts(environ: Mapping[str, str]) -> frozenset[str]:
    """What can be had here, as facts for runtimes/*.toml: `cgroup` (for memory and pids), `cgroup_cpu` and `polling`."""
    facts = set()
    places = _places(environ)
    if cgroups.covers(places, *_NEEDED):
        facts.add("cgroup")
        if cgroups.covers(places, "cpu"):
            facts.add("cgroup_cpu")
    if os.geteuid() == 0 or "hidepid=" not in _proc_options():
        facts.add("polling")
    return frozenset(facts)


def _places(environ: Mapping[str, str]) -> tuple[cgroups.Place, ...]:
    return () if environ.get(SWITCH) == "off" else cgroups.find_places(cgroups.read_hierarchies())


def _proc_options() -> str:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as stream:
        return " ".join(line for line in stream if " - proc " in line)


class BuildLimits:
    """One build's limits; made by `build_limits`."""

    def __init__(self, step: StepIsolation, group: cgroups.Group | None) -> None:
        self._step = step
        self._group = group
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
        if not (self._step.memory_bytes or self._step.pids):
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
        if self._step.memory_bytes and used.memory_bytes > self._step.memory_bytes:
            return "memory"
        return "pids" if self._step.pids and used.tasks >= self._step.pids else ""

    def _error(self) -> LimitExceeded:
        values = {"memory": f"{self._step.memory_bytes} bytes of memory", "pids": f"{self._step.pids} processes and threads"}
        return LimitExceeded(
            f"the build passed its limit of {values[self._met]} (limits.{self._met})", hint=_REMEDY.format(self._met)
        )


@contextmanager
def build_limits(step: StepIsolation, build_id: str, environ: Mapping[str, str]) -> Iterator[BuildLimits]:
    """The limits of `step` for one build; its cgroup is made where there can be one, and removed afterwards.

    Enter it before the sandbox is started, so that it is left when the sandbox is gone. Raises IsolationError.
    """
    places = _places(environ) if step.memory_bytes or step.pids or step.cpus else ()
    if not cgroups.covers(places, *_NEEDED):
        yield BuildLimits(step, None)
        return
    cgroups.sweep(places)
    group = cgroups.Group(places, build_id)
    try:
        group.limit(memory_bytes=step.memory_bytes, pids=step.pids, cpus=step.cpus)
        yield BuildLimits(step, group)
    finally:
        group.close()
