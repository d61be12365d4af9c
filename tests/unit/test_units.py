"""Sizes and durations."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.units import (
    exact_duration,
    exact_size,
    format_duration,
    format_size,
    parse_duration,
    parse_duration_ns,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("4096", 4096),
        ("64m", 64 << 20),
        ("64M", 64 << 20),
        ("10MB", 10 << 20),
        ("1.5GiB", 3 << 29),
        ("1.5 GiB", 3 << 29),
        ("512b", 512),
        ("1k", 1024),
        ("2t", 2 << 40),
        ("0.5k", 512),
        ("0.1b", 0),
    ],
)
def test_size_is_read_as_docker_reads_it(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text",
    ["", " 1m", "1m ", "-1", "+1", "1mm", "m", "1,5g", "0x10", "1e3", "\u0661m", "1  m", "16e", "9" * 30, "inf", ".5g", "5.g"],
)
def test_what_is_no_size_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_size(text)


def test_size_is_shown_as_docker_shows_it() -> None:
    assert [format_size(n) for n in (0, 999, 1500, 2_500_000, 3 * 10**9)] == ["0B", "999B", "1.5kB", "2.5MB", "3.0GB"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("90", 90),
        ("90s", 90),
        ("6h", 21600),
        ("1h30m", 5400),
        ("24h0m", 86400),
        ("1.5h", 5400),
        ("250ms", 0.25),
        ("7d", 604800),
    ],
)
def test_duration_is_read_as_go_reads_it(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


def test_duration_in_nanoseconds_is_exact() -> None:
    assert parse_duration_ns("100h0.000000001s") == 100 * 3600 * 10**9 + 1


@pytest.mark.parametrize("text", ["", "-5s", "+5s", "5 s", "s", "1h30", "1y", "999999999h", "h1", "1S", "\u0663s"])
def test_what_is_no_duration_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_duration(text)


def test_duration_is_shown_in_two_units_at_most() -> None:
    assert [format_duration(s) for s in (0.04, 59.94, 125, 3720)] == ["0.0s", "59.9s", "2m05s", "1h02m"]


@settings(max_examples=50)
@given(st.integers(0, 10**9))
def test_shown_duration_reads_back_within_a_minute(seconds: int) -> None:
    assert abs(parse_duration(format_duration(seconds)) - seconds) < 60


@settings(max_examples=50)
@given(st.text("019.kKmMiBbsh \u0663-", max_size=12))
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    try:
        assert parse_size(text) >= 0
    except ValueError:
        pass


def test_exact_sizes_are_in_the_largest_unit_that_divides_them() -> None:
    assert [exact_size(n) for n in (0, 4097, 1536 << 20, 8 << 30, 1 << 62)] == ["0B", "4097B", "1536MiB", "8GiB", "4EiB"]


def test_exact_durations_leave_nothing_out() -> None:
    assert [exact_duration(s) for s in (0, 3600, 5400, 2.5, 1e-9)] == ["0s", "1h", "1h30m", "2s500ms", "1ns"]


@settings(max_examples=50)
@given(st.integers(0, 2**63 - 1))
def test_an_exact_size_reads_back_as_it_was(size_bytes: int) -> None:
    assert parse_size(exact_size(size_bytes)) == size_bytes


@settings(max_examples=50)
@given(st.integers(0, 100 * 24 * 3600 * 1000))
def test_an_exact_duration_reads_back_as_it_was(milliseconds: int) -> None:
    assert parse_duration(exact_duration(milliseconds / 1000)) == milliseconds / 1000
