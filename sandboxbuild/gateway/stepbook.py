"""Which steps of a build have begun and ended, and what each of them may be handed: secrets once, agents while it runs.

The gateway can't see which step runs, only what the executor says of it. So what it is told is held against what the launcher
read out of the Dockerfile itself, and what a step was declared to name is all that it gets, in the time between its two ends.
"""

from __future__ import annotations

import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from sandboxbuild.gateway.rules import RUN, Asker
from sandboxbuild.plan.handovers import ANY_ID, NamedRun

STEPS_LIMIT: Final = 10_000
TEXT_LIMIT: Final = 64 * 1024
IDS_LIMIT: Final = 256  # of secrets, and of agents, in one step
AGENTS_AT_ONCE: Final = 64  # connections of one step to agents
AGENTS_IN_ALL: Final = 10_000
STEP: Final = re.compile(r"[0-9A-Za-z._-]{1,64}", re.ASCII)
ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
_UNNAMED: Final = "no RUN of the Dockerfile names it in such a step"


class NotDue(Exception):
    """Why something isn't handed over, or a step not taken; the text is for the one who asked."""


class _Step:
    """One step as it was declared: what it names, and what it has had of that."""

    __slots__ = ("agents", "asker", "connected", "ended", "given", "held", "secrets")

    def __init__(self, asker: Asker, secrets: set[str], agents: set[str]) -> None:
        self.asker = asker
        self.secrets = secrets
        self.given: set[str] = set()
        self.agents = agents
        self.held: set[socket.socket] = set()
        self.connected = 0
        self.ended = False


class StepBook:
    """The steps of one build. Thread-safe. `named` are the Dockerfile's RUNs that name secrets or agents, None if unknown."""

    def __init__(self, named: Sequence[NamedRun] | None = None) -> None:
        self._named = None if named is None else {(run.stage, run.run): run for run in named}
        self._left = Counter((run.stage, run.run) for run in named or ())
        self._steps: dict[str, _Step] = {}
        self._lock = threading.Lock()

    def declare(self, step: str, stage: str, run: str, secrets: Sequence[str] = (), agents: Sequence[str] = ()) -> Asker:
        """A step begins, once. Raises ValueError for what is no step, NotDue for ids that the Dockerfile has no RUN for."""
        if not STEP.fullmatch(step) or len(stage) > TEXT_LIMIT or len(run) > TEXT_LIMIT:
            raise ValueError("a step that can't be declared")
        if max(len(secrets), len(agents)) > IDS_LIMIT or not all(ID.fullmatch(one) for one in (*secrets, *agents)):
            raise ValueError("ids that can't be a secret's or an agent's, or too many of them")
        with self._lock:
            if step in self._steps:
                raise NotDue(f"step {step} has begun before: a gateway serves one build, and a step once")
            if len(self._steps) >= STEPS_LIMIT:
                raise NotDue(f"the build has more than {STEPS_LIMIT} steps")
            if secrets or agents:
                self._count(stage, run, secrets, agents)
            asker = Asker(step, RUN, stage, run)
            self._steps[step] = _Step(asker, set(secrets), set(agents))
        return asker

    def _count(self, stage: str, run: str, secrets: Sequence[str], agents: Sequence[str]) -> None:
        """Take one of the Dockerfile's RUNs, each of which is run once for a platform. Raises NotDue."""
        if self._named is None:
            return
        named = self._named.get((stage, run))
        if named is None or not _covers(named.secrets, secrets) or not _covers(named.agents, agents):
            wanted = ", ".join((*(f"secret {one}" for one in secrets), *(f"ssh {one}" for one in agents)))
            raise NotDue(f"{wanted}: {_UNNAMED}")
        if not self._left[stage, run]:
            raise NotDue("the Dockerfile has no more steps of this text")
        self._left[stage, run] -= 1

    def end(self, step: str) -> None:
        """A step has ended: nothing more is its, and its connections to agents are cut. Idempotent. Raises ValueError."""
        with self._lock:
            found = self._steps.get(step)
            if found is None:
                raise ValueError("a step that was never declared")
            found.ended = True
            for connection in found.held:
                _shut(connection)

    def asker(self, step: str, kind: str = RUN) -> Asker:
        """Who asks; a step that was never declared has no stage and no text.

        Raises ValueError for what is no step, NotDue after a step's end.
        """
        if not STEP.fullmatch(step):
            raise ValueError("no step")
        with self._lock:
            found = self._steps.get(step)
            if found is not None and found.ended:
                raise NotDue(f"step {step} has ended")
        return (found.asker if found is not None else Asker(step))._replace(kind=kind)

    def has_ended(self, step: str) -> bool:
        found = self._steps.get(step)
        return found is not None and found.ended

    def take_secret(self, step: str, secret_id: str) -> Asker:
        """Hand a secret over to a step, once. Raises NotDue."""
        with self._lock:
            found = self._running(step)
            if secret_id in found.given:
                raise NotDue(f"step {step} has had this secret")
            if secret_id not in found.secrets:
                raise NotDue(f"step {step} names no such secret")
            found.given.add(secret_id)
            return found.asker

    @contextmanager
    def hold_agent(self, step: str, ssh_id: str, connection: socket.socket) -> Iterator[Asker]:
        """A connection to an agent, which is shut when the step ends. Raises NotDue."""
        with self._lock:
            found = self._running(step)
            if ssh_id not in found.agents:
                raise NotDue(f"step {step} names no such agent")
            if len(found.held) >= AGENTS_AT_ONCE or found.connected >= AGENTS_IN_ALL:
                raise NotDue(f"step {step} has too many connections to agents")
            found.connected += 1
            found.held.add(connection)
        try:
            yield found.asker
        finally:
            with self._lock:
                found.held.discard(connection)

    def _running(self, step: str) -> _Step:
        found = self._steps.get(step)
        if found is None:
            raise NotDue("no such step has begun")
        if found.ended:
            raise NotDue(f"step {step} has ended")
        return found


def _covers(named: Sequence[str], wanted: Sequence[str]) -> bool:
    return ANY_ID in named or set(wanted) <= set(named)


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
