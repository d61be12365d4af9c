"""Retry state as a value: how often something failed, and how long to wait before the next try."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from sandboxbuild.registry.failures import TransientError

T = TypeVar("T")
_TIMED_OUT = 504  # the gateway's status for a host that says nothing


class RetryPolicy(NamedTuple):
    """At most `attempts` tries; waits of `base_s`, doubled each time, with jitter, up to `cap_s`.

    What a registry asks for by Retry-After is waited for, but never longer than `retry_after_cap_s`.
    """

    attempts: int = 6
    base_s: float = 0.4
    cap_s: float = 20.0
    retry_after_cap_s: float = 90.0


class Retry(NamedTuple):
    """The state of one operation: `failures` tries have failed since the last progress."""

    policy: RetryPolicy = RetryPolicy()
    failures: int = 0

    def failed(self, error: TransientError) -> Retry:
        """The state after another failure. Raises `error` when there were enough; a time-out counts for half of them."""
        failures = self.failures + (max(1, self.policy.attempts // 2) if error.status == _TIMED_OUT else 1)
        if failures >= self.policy.attempts:
            raise error
        return self._replace(failures=failures)

    def progressed(self) -> Retry:
        """The state after the operation has moved on: the count begins again."""
        return self._replace(failures=0)

    def delay_s(self, error: TransientError, fraction: float) -> float:
        """How long to wait after `error`; `fraction` in 0..1 is the jitter: between half of the back-off and the whole."""
        back_off = min(self.policy.cap_s, self.policy.base_s * 2.0 ** max(0, self.failures - 1))
        asked = min(self.policy.retry_after_cap_s, error.retry_after_s)
        return max(asked, back_off * (0.5 + fraction / 2))


class Waiting(NamedTuple):
    """How to spend time: real by default, counted in tests."""

    sleep: Callable[[float], None] = time.sleep
    fraction: Callable[[], float] = lambda: os.urandom(1)[0] / 255


def retrying(operation: Callable[[], T], retry: Retry, waiting: Waiting) -> T:
    """Call `operation` until it succeeds, fails for good, or the policy's tries are used up."""
    while True:
        try:
            return operation()
        except TransientError as error:
            retry = retry.failed(error)
            waiting.sleep(retry.delay_s(error, waiting.fraction()))
