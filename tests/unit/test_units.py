"""Sizes and durations are read as docker reads them, and nothing else is."""

from __future__ import annotations

import pytest

from sandboxbuild.units import format_duration, format_size, parse_duration_s, parse_size_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("64m", 64 << 20),
        ("1.5g", 3 << 29),
        ("1GiB", 1 << 30),
        ("2 KB", 2048),
        ("7b", 7),
        ("1t", 1 << 40),
    ],
)
def test_a_size_is(text: str, size: int) -> None:
    assert parse_size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "m", "-1", "1x", "1.m", "1e9", "١", "1mm", "9" * 40])
def test_no_size_is(text: str) -> None:
    with pytest.raises(ValueError, match="no size"):
        parse_size_bytes(text)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("1h30m", 5400), ("250ms", 0.25), ("1.5s", 1.5), ("2d", 172800)])
def test_a_duration_is(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "h", "-1s", "1 s", "1s2", "inf"])
def test_no_duration_is(text: str) -> None:
    with pytest.raises(ValueError, match="no duration"):
        parse_duration_s(text)


def test_numbers_are_shown_short() -> None:
    assert [format_size(n) for n in (0, 999, 1500, 2_500_000, 3 * 10**9)] == ["0B", "999B", "1.5kB", "2.5MB", "3.0GB"]
    assert [format_duration(s) for s in (0.04, 59.94, 125, 3720)] == ["0.0s", "59.9s", "2m05s", "1h02m"]
