"""The executor's side of steps' control groups: the launcher is asked for one, and says what was met in it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from sandboxbuild.errors import IsolationError
from sandboxbuild.protocol.codec import decode
from sandboxbuild.protocol.groups import ANSWERS, GroupClosed, GroupLeft, GroupMet, GroupQuestion, GroupReady, GroupWanted


class StepGroup(Protocol):
    """One step's group. Used by the step's thread."""

    def enter(self, pid: int, namespace: int) -> None:
        """Have a process put in, as it is known in the pid namespace of that inode. Raises IsolationError."""

    def met(self) -> str:
        """The bound that was met so far, memory or pids; "" for none."""

    def leave(self) -> str:
        """The same at the end: nothing of the step runs any more, and the group may go."""


class AskedGroups:
    """All groups of a build, over the control channel. Thread-safe; waits are ended by the answer, or with the launcher."""

    def __init__(self, ask: Callable[[GroupQuestion], None]) -> None:
        self._ask = ask
        self._changed = threading.Condition()
        self._ready: dict[int, str] = {}
        self._met: dict[int, str] = {}
        self._closed: dict[int, str] = {}

    def of(self, step: int) -> StepGroup:
        """The group of the step whose vertex is `step`."""
        return _AskedGroup(self, step)

    def hear(self, payload: bytes) -> None:
        """Take the payload of a frame from the launcher."""
        answer = decode(payload, ANSWERS)
        with self._changed:
            if isinstance(answer, GroupReady):
                self._ready[answer.step] = answer.error
            elif isinstance(answer, GroupMet):
                self._met[answer.step] = answer.limit
            elif isinstance(answer, GroupClosed):
                self._closed[answer.step] = answer.limit
            self._changed.notify_all()

    def enter(self, question: GroupWanted) -> str:
        """What the launcher says went wrong, "" for nothing."""
        self._ask(question)
        with self._changed:
            self._changed.wait_for(lambda: question.step in self._ready)
            return self._ready.pop(question.step)

    def met(self, step: int) -> str:
        with self._changed:
            return self._met.get(step, "")

    def leave(self, step: int) -> str:
        self._ask(GroupLeft(step))
        with self._changed:
            self._changed.wait_for(lambda: step in self._closed)
            return self._closed.pop(step) or self._met.pop(step, "")


class _AskedGroup:
    def __init__(self, groups: AskedGroups, step: int) -> None:
        self._groups = groups
        self._step = step
        self._entered = False

    def enter(self, pid: int, namespace: int) -> None:
        error = self._groups.enter(GroupWanted(self._step, pid, namespace))
        if error:
            raise IsolationError(f"the step can't be given its limits: {error}")
        self._entered = True

    def met(self) -> str:
        return self._groups.met(self._step)

    def leave(self) -> str:
        return self._groups.leave(self._step) if self._entered else ""
