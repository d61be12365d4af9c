from __future__ import annotations

import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.errors import InputError
from sandboxbuild.plan.modes import parse_mode

FILE, DIRECTORY = stat.S_IFREG, stat.S_IFDIR


@pytest.mark.parametrize(
    ("text", "before", "expected"),
    [
        ("0", FILE | 0o644, 0o000),
        ("755", FILE | 0o644, 0o755),
        ("07777", FILE, 0o7777),
        ("u=rwX,go=rX", DIRECTORY | 0o700, 0o755),
        ("u=rwX,go=rX", FILE | 0o666, 0o644),
        ("u=rwX,go=rX", FILE | 0o700, 0o755),
        ("go=u", FILE | 0o750, 0o777),
        ("go=u-w", FILE | 0o700, 0o755),
        ("a-w", FILE | 0o666, 0o444),
        ("+x", FILE | 0o644, 0o755),
        ("u+x,g-r", FILE | 0o644, 0o704),
        ("go=", FILE | 0o777, 0o700),
        ("u+s", FILE | 0o755, 0o4755),
        ("g+s", FILE | 0o755, 0o2755),
        ("o+s", FILE | 0o755, 0o755),
        ("+s", FILE | 0o755, 0o6755),
        ("+t", DIRECTORY | 0o777, 0o1777),
        ("o+t", DIRECTORY | 0o777, 0o777),
        ("u=rw", FILE | 0o4755, 0o655),
        ("=", FILE | 0o7777, 0o1000),
        ("+tx", DIRECTORY | 0o644, 0o1644),
        ("g=tg", FILE | 0o2312, 0o1302),
        ("u=g,g=u", FILE | 0o640, 0o440),
        ("=rg", FILE | 0o612, 0o444),
    ],
)
def test_a_mode_is_changed_as_chmod_changes_it(text: str, before: int, expected: int) -> None:
    assert parse_mode(text).apply(before) == expected


@pytest.mark.parametrize("text", ["", "9z9", "64a", "10000", "8", "u", "u?x", "u+q", "u+x,", ",u+x", "u+x g-r"])
def test_what_is_no_mode_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--chmod"):
        parse_mode(text)


@settings(max_examples=150, deadline=None)
@given(st.text("ugoarwxXst+-=,0178", max_size=8), st.integers(0, 0o7777))
def test_any_text_is_a_mode_or_refused(text: str, mode: int) -> None:
    try:
        rule = parse_mode(text)
    except InputError:
        return
    assert 0 <= rule.apply(FILE | mode) <= 0o7777
    assert rule.apply(DIRECTORY | mode) <= 0o7777
