"""The control groups of a build's running steps, made and taken away as the executor asks for them.

The executor may be hostile: it can name no process but the sandbox's own, and has no more groups at once than steps may run.
"""

from __future__ import annotations

import time
from typing import Final

from sandboxbuild.errors import IsolationError, ProtocolError
from sandboxbuild.protocol.groups import GroupAnswer, GroupClosed, GroupMet, GroupQuestion, GroupReady, GroupWanted
from sandboxbuild.system.groups import Bounds, BuildGroup, StepGroup

LOOK_S: Final = 0.1


class StepGroups:
    """At most `jobs` at once, each with `bounds`. Used by one thread."""

    def __init__(self, group: BuildGroup, bounds: Bounds, jobs: int) -> None:
        self._group = group
        self._bounds = bounds
        self._jobs = jobs
        self._steps: dict[int, StepGroup] = {}
        self._empty: list[StepGroup] = []
        self._met: dict[int, str] = {}
        self._next_look_s = 0.0

    def answer(self, question: GroupQuestion) -> GroupAnswer:
        """Do what is asked. Raises ProtocolError for what no executor of ours asks."""
        if isinstance(question, GroupWanted):
            return GroupReady(question.step, self._enter(question))
        step = self._steps.pop(question.step, None)
        if step is None:
            raise ProtocolError(f"the executor has no step {question.step} that has a cgroup")
        self._empty.append(step)
        return GroupClosed(question.step, self._met.pop(question.step, "") or step.exceeded())

    def _enter(self, wanted: GroupWanted) -> str:
        """What went wrong, "" for nothing."""
        if wanted.step in self._steps or len(self._steps) >= self._jobs:
            raise ProtocolError(f"the executor asks for a cgroup too many, for step {wanted.step}")
        self._clear()
        try:
            process = self._group.find(wanted.pid, wanted.namespace)
            if not process:
                return f"process {wanted.pid} isn't among the sandbox's"
            step = self._steps[wanted.step] = self._group.add_step(wanted.step, self._bounds)
            step.join(process)
        except IsolationError as error:
            return error.message
        return ""

    def news(self) -> list[GroupMet]:
        """The bounds that were met since the last call, each step's once."""
        now = time.monotonic()
        if now < self._next_look_s:
            return []
        self._next_look_s = now + LOOK_S
        self._clear()
        found = [(number, step.exceeded()) for number, step in self._steps.items() if number not in self._met]
        news = [GroupMet(number, limit) for number, limit in found if limit]
        self._met |= dict(news)
        return news

    def _clear(self) -> None:
        """A step's last process may need a moment to be gone: its group is taken away by and by."""
        self._empty = [step for step in self._empty if not step.remove()]
