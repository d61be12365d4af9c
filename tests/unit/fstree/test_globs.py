from __future__ import annotations

import fnmatch
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.errors import InputError
from sandboxbuild.fstree.globs import MAX_PATTERN_LENGTH, has_wildcards, ignore_glob, match_glob


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("abc", "abc", True),
        ("*", "abc", True),
        ("*", "", True),
        ("*c", "abc", True),
        ("a*/b", "abc/b", True),
        ("a*/b", "a/c/b", False),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/f", True),
        ("a*b?c*x", "abxbbxdbxebxczzy", False),
        ("ab[b-d]", "abc", True),
        ("ab[^b-d]", "abc", False),
        ("a\\*b", "a*b", True),
        ("a\\*b", "ab", False),
        ("a?b", "a☺b", True),
        ("a[^a][^a][^a]b", "a☺b", False),
        ("a?b", "a/b", False),
        ("[!a]", "!", True),
        ("[!a]", "b", False),
        ("[[]x]", "[x]", True),
        ("[\\]a]", "]", True),
        ("*.txt", ".txt", True),
        ("**/f", "a/f", True),
        ("**/f", "a/b/f", False),
        ("[z-a]", "m", False),
    ],
)
def test_filepath_match(pattern: str, path: str, expected: bool) -> None:
    assert match_glob(pattern).matches(path) is expected


@pytest.mark.parametrize("pattern", ["[", "a[", "[]", "[^]", "[a-]", "[-a]", "[x-]", "\\", "a\\", "[\\", "[a", "[]a]"])
@pytest.mark.parametrize("compile_it", [match_glob, ignore_glob])
def test_a_malformed_pattern_is_refused(pattern: str, compile_it: object) -> None:
    with pytest.raises(InputError, match="malformed"):
        compile_it(pattern)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("**", "a/b", True),
        ("a/**", "a", False),
        ("a/**", "a/b/c", True),
        ("**/a", "a", True),
        ("**/a", "x/a", True),
        ("**/a", "xa", False),
        ("**a", "xa", True),
        ("**a*", "xa", False),
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/x/y/b", True),
        ("a**b", "axb", False),
        ("a**b", "ax/b", True),
        ("**/**/*.txt", "file.txt", True),
        ("a**", "ab/c", True),
        ("***", "a/b", True),
    ],
)
def test_double_stars_cross_slashes_as_mobys_do(pattern: str, path: str, expected: bool) -> None:
    assert ignore_glob(pattern).matches(path) is expected


def test_a_reversed_range_is_refused_by_moby_alone() -> None:
    with pytest.raises(InputError):
        ignore_glob("[z-a]")


def test_a_pattern_may_match_below_a_directory_only_if_its_start_fits() -> None:
    glob = ignore_glob("src/*/keep")
    assert glob.may_match_below("src")
    assert glob.may_match_below("src/a")
    assert not glob.may_match_below("src/a/b")
    assert not glob.may_match_below("other")
    assert ignore_glob("**/x").may_match_below("any/where")
    assert ignore_glob("a/b/c").may_match_below("a/b")
    assert not ignore_glob("a/b/c").may_match_below("a/bc")
    assert ignore_glob("a").may_match_below("")


def test_hostile_stars_take_no_exponential_time() -> None:
    assert not match_glob("*a" * 200 + "b").matches("a" * 4000)
    assert not ignore_glob("**/a" * 200 + "b").matches("a/" * 2000)


def test_a_pattern_has_a_greatest_length() -> None:
    with pytest.raises(InputError, match="too long"):
        match_glob("a" * (MAX_PATTERN_LENGTH + 1))


def test_a_guarded_wildcard_is_none() -> None:
    assert not has_wildcards("a\\*b\\[")
    assert has_wildcards("a\\\\*")


@settings(max_examples=150, deadline=None)
@given(st.text("ab/*?", max_size=8), st.text("ab/", max_size=8))
def test_without_classes_the_automaton_agrees_with_a_regular_expression(pattern: str, path: str) -> None:
    translated = "".join({"*": "[^/]*", "?": "[^/]"}.get(character, re.escape(character)) for character in pattern)
    assert match_glob(pattern).matches(path) is bool(re.fullmatch(translated, path))


@settings(max_examples=150, deadline=None)
@given(st.text("ab[]^-\\*", max_size=8), st.text("ab-^", max_size=6))
def test_any_pattern_matches_or_is_refused(pattern: str, path: str) -> None:
    for compile_it in (match_glob, ignore_glob):
        try:
            glob = compile_it(pattern)
        except InputError:
            continue
        if glob.matches(path) and path:
            assert glob.may_match_below("")


@settings(max_examples=150, deadline=None)
@given(st.text("ab/*?[]", max_size=10), st.text("ab", min_size=1, max_size=3), st.text("ab/", min_size=1, max_size=6))
def test_what_matches_below_a_directory_may_match_there(pattern: str, directory: str, rest: str) -> None:
    try:
        glob = ignore_glob(pattern)
    except InputError:
        return
    if glob.matches(f"{directory}/{rest}"):
        assert glob.may_match_below(directory)


def test_stars_agree_with_fnmatch_inside_one_component() -> None:
    for pattern in ("a*", "*a*b", "?b*", "*"):
        for path in ("ab", "aab", "b", "", "cab"):
            assert match_glob(pattern).matches(path) is fnmatch.fnmatchcase(path, pattern)
