from __future__ import annotations

import pytest

from sandboxbuild.registry.failures import TransientError, retry_after_s
from sandboxbuild.registry.retry import Retry, RetryPolicy, Waiting, retrying

FAILED = TransientError("no answer")


def test_the_error_is_raised_when_the_tries_are_used_up() -> None:
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise FAILED

    with pytest.raises(TransientError):
        retrying(fail, Retry(RetryPolicy(attempts=4)), Waiting(lambda _s: None, lambda: 0.0))
    assert len(calls) == 4


def test_delays_double_up_to_the_cap() -> None:
    policy = RetryPolicy(base_s=1.0, cap_s=5.0)
    assert [Retry(policy, failures).delay_s(FAILED, 1.0) for failures in (1, 2, 3, 4, 5)] == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_jitter_takes_away_half_at_most() -> None:
    retry = Retry(RetryPolicy(base_s=1.0), 1)
    assert retry.delay_s(FAILED, 0.0) == 0.5


def test_what_the_registry_asks_for_is_waited_for_but_not_for_ever() -> None:
    asked = TransientError("busy", retry_after_s=3600)
    assert Retry(RetryPolicy(retry_after_cap_s=90), 1).delay_s(asked, 0.0) == 90


def test_a_host_that_hangs_is_tried_twice_not_six_times() -> None:
    hangs = TransientError("hangs", status=504)
    retry = Retry(RetryPolicy(attempts=6)).failed(hangs)
    with pytest.raises(TransientError):
        retry.failed(hangs)


def test_progress_begins_the_count_again() -> None:
    assert Retry(RetryPolicy(), 3).progressed() == Retry(RetryPolicy(), 0)


@pytest.mark.parametrize(
    ("value", "seconds"), [("5", 5.0), ("0", 0.0), ("", 0.0), ("-1", 0.0), ("soon", 0.0), ("9999999", 0.0), ("٣", 0.0)]
)
def test_retry_after_is_a_small_number_of_seconds_or_nothing(value: str, seconds: float) -> None:
    assert retry_after_s(value) == seconds
