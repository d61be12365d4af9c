from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.dockerfile.ignore import MAX_IGNORE_BYTES, ignore_patterns, parse_ignore
from sandboxbuild.errors import InputError, LimitExceeded, SandboxbuildError
from sandboxbuild.fstree.patterns import MAX_PATTERNS


def ignored(text: str, path: str) -> bool:
    return parse_ignore(text.encode()).ignores(path.encode(), False)


def test_comments_blanks_and_the_byte_order_mark_are_skipped() -> None:
    assert ignore_patterns(b"\xef\xbb\xbfa.txt\n# no\n\n  \nb \r\n") == ("a.txt", "b")


def test_a_comment_starts_in_the_first_column() -> None:
    assert ignore_patterns(b" #1\n") == ("#1",)


@pytest.mark.parametrize("pattern", ["a", "/a", "./a", "a/", " a ", "x/../a"])
def test_patterns_are_cleaned_and_rooted_at_the_context(pattern: str) -> None:
    assert ignored(pattern, "a")
    assert ignored(pattern, "a/below/it")
    assert not ignored(pattern, "x/a")


def test_the_last_match_wins() -> None:
    assert not ignored("*.go\n!f.go\n", "f.go")
    assert ignored("!f.go\n*.go\n", "f.go")


def test_an_exception_takes_back_below_an_ignored_directory() -> None:
    text = "docs\n!docs/README.md\n"
    assert not ignored(text, "docs/README.md")
    assert ignored(text, "docs/other")


def test_an_exception_for_a_directory_takes_back_what_is_in_it() -> None:
    assert not ignored("**\n!a/b\n", "a/b/c/d")


def test_a_name_at_any_depth_takes_all_that_is_below_it() -> None:
    left_out = ["x/f", "a/x/f", "a/b/x/sub/g"]
    assert [path for path in [*left_out, "keep/f", "a/b/y", "ax/f"] if ignored("**/x\n", path)] == left_out


def test_a_walk_looks_only_where_something_may_be_taken_back() -> None:
    rules = parse_ignore(b"*\n!src/keep\n")
    assert rules.may_reinclude_below(b"src")
    assert not rules.may_reinclude_below(b"node_modules")
    assert not parse_ignore(b"*\n").may_reinclude_below(b"src")


def test_an_exception_that_a_walk_passes_over_before_anything_matched_does_not_count_for_children() -> None:
    # Moby asks a `!` only where something matched before it: for `a` nothing has, for `a/b` the first pattern has.
    assert ignored("a/b\n!a\n", "a/b")


@pytest.mark.parametrize("text", ["[\n", "a[\n", "\\\n", "!\n", "[z-a]\n"])
def test_a_malformed_pattern_is_an_error(text: str) -> None:
    with pytest.raises(InputError, match="ignore file"):
        parse_ignore(text.encode())


def test_a_huge_ignore_file_is_refused() -> None:
    with pytest.raises(LimitExceeded):
        parse_ignore(b"a\n" * MAX_IGNORE_BYTES)
    with pytest.raises(InputError, match="too many"):
        parse_ignore(b"a\n" * (MAX_PATTERNS + 1))


def test_names_that_are_no_utf8_are_matched_byte_for_byte() -> None:
    rules = parse_ignore(b"caf\xe9\n")
    assert rules.ignores(b"caf\xe9", False)
    assert not rules.ignores("café".encode(), False)


def test_a_large_context_is_judged_quickly() -> None:
    rules = parse_ignore(b"".join(b"**/*.x%d\n!keep/**/y%d\n" % (i, i) for i in range(10)))
    start = time.process_time()
    for number in range(2000):
        rules.ignores(b"some/folder/of/a/context/file%d.txt" % number, False)
    assert time.process_time() - start < 1


def by_definition(patterns: list[str], path: str) -> bool:
    """Exact names only: each path takes on its parent's matches."""
    matched_above: set[int] = set()
    taken = False
    parts = path.split("/")
    for depth in range(1, len(parts) + 1):
        taken, matched = False, set()
        for number, pattern in enumerate(patterns):
            negated, name = pattern.startswith("!"), pattern.lstrip("!")
            if number in matched_above or (negated == taken and name == "/".join(parts[:depth])):
                matched.add(number)
                taken = not negated
        matched_above = matched
    return taken


NAMES = st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=3).map("/".join)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.builds(str.__add__, st.sampled_from(["", "!"]), NAMES), max_size=5), NAMES)
def test_plain_names_behave_as_defined(patterns: list[str], path: str) -> None:
    assert ignored("\n".join(patterns), path) is by_definition(patterns, path)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.lists(st.binary(min_size=1, max_size=5), min_size=1, max_size=3))
def test_any_bytes_give_rules_or_an_error_of_ours(data: bytes, parts: list[bytes]) -> None:
    try:
        rules = parse_ignore(data)
    except SandboxbuildError:
        return
    path = b"/".join(parts)
    rules.ignores(path, True)
    rules.may_reinclude_below(path)
