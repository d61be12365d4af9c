"""What the connections of a step, and of a build, have used of their budgets; passing one is a text that names it."""

from __future__ import annotations

import threading

from sandboxbuild.policy.isolation import Budget
from sandboxbuild.system.relay import IDLE, LASTED


class _Account:
    """What one step or one build has used."""

    __slots__ = ("budget", "download_bytes", "open", "owner", "place", "total", "upload_bytes")

    def __init__(self, budget: Budget, owner: str, place: str) -> None:
        self.budget = budget
        self.owner = owner
        self.place = place
        self.open = 0
        self.total = 0
        self.upload_bytes = 0
        self.download_bytes = 0

    def fault_of_one_more(self) -> str:
        if self.budget.connections and self.open >= self.budget.connections:
            return self._fault(f"{self.budget.connections} connections at once", "connections")
        if self.budget.connections_total and self.total >= self.budget.connections_total:
            return self._fault(f"{self.budget.connections_total} connections in all", "connections_total")
        return ""

    def fault_of_bytes(self) -> str:
        if self.budget.upload_bytes and self.upload_bytes > self.budget.upload_bytes:
            return self._fault(f"{self.budget.upload_bytes} bytes sent", "upload")
        if self.budget.download_bytes and self.download_bytes > self.budget.download_bytes:
            return self._fault(f"{self.budget.download_bytes} bytes received", "download")
        return ""

    def _fault(self, what: str, key: str) -> str:
        return f"{self.owner} has reached its limit of {what} ([network.limits.{self.place}] {key})"


class Meter:
    """Counts for one build. Thread-safe; no call blocks."""

    def __init__(self, step_budget: Budget, build_budget: Budget) -> None:
        self.step_budget = step_budget
        self.build_budget = build_budget
        self._build = _Account(build_budget, "the build", "build")
        self._steps: dict[str, _Account] = {}
        self._lock = threading.Lock()

    def open(self, step: str) -> str:
        """Count one more connection of `step`: "" where it may be, else the limit that it would pass."""
        with self._lock:
            account = self._step(step)
            fault = account.fault_of_one_more() or self._build.fault_of_one_more()
            if not fault:
                for one in (account, self._build):
                    one.open += 1
                    one.total += 1
            return fault

    def moved(self, step: str, sent: int, received: int) -> str:
        """Count bytes: "" or the limit that they passed."""
        with self._lock:
            account = self._step(step)
            for one in (account, self._build):
                one.upload_bytes += sent
                one.download_bytes += received
            return account.fault_of_bytes() or self._build.fault_of_bytes()

    def closed(self, step: str) -> None:
        with self._lock:
            self._step(step).open -= 1
            self._build.open -= 1

    def _step(self, step: str) -> _Account:
        account = self._steps.get(step)
        if account is None:
            account = self._steps[step] = _Account(self.step_budget, f"step {step}", "step")
        return account

    @property
    def idle_s(self) -> float:
        return _shorter(self.step_budget.idle_s, self.build_budget.idle_s)

    @property
    def connected_s(self) -> float:
        return _shorter(self.step_budget.connected_s, self.build_budget.connected_s)


def time_limit_key(reason: str) -> str:
    """The policy's key behind the end of a connection that the relay calls so; "" for other ends."""
    return "time" if reason == LASTED else "idle" if reason.startswith(IDLE) else ""


def _shorter(one_s: float, other_s: float) -> float:
    return min(filter(None, (one_s, other_s)), default=0.0)
