"""Expansion beyond the corpus's table: quotes, modifiers, patterns and their limits."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.dockerfile import patterns
from sandboxbuild.dockerfile.expansion import Mode, expand
from sandboxbuild.dockerfile.limits import Budget
from sandboxbuild.dockerfile.spans import Fault


def test_a_backquote_escapes_where_it_is_the_escape() -> None:
    assert expand("a`$b\\$c", {"c": "x"}, Mode(escape="`")).text == "a$b\\x"


def test_unset_and_used_names_are_told() -> None:
    found = expand("$a ${b:-$c} ${d+x}", {"a": "1", "d": ""})
    assert (found.used, found.unset) == ({"a", "d"}, {"b", "c"})


def test_a_default_is_read_even_if_it_is_not_needed() -> None:
    with pytest.raises(Fault, match="nope"):
        expand("${a:-${b:?nope}}", {"a": "1"})


def test_quotes_are_text_in_a_heredoc() -> None:
    assert expand('"it\'s" $a \\$b \\\n', {"a": "x"}, Mode(no_quotes=True)).text == '"it\'s" x $b \n'


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(Fault, match="nested too deeply"):
        expand("${a:-" * 100 + "}" * 100, {})


def test_growing_values_are_refused() -> None:
    with pytest.raises(Fault, match="too much text"):
        expand("$a$a$a", {"a": "x" * 40}, budget=Budget(100))


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("${a#*/}", "local/bin/x.tar.gz"),
        ("${a##*/}", "x.tar.gz"),
        ("${a%.*}", "/local/bin/x.tar"),
        ("${a%%.*}", "/local/bin/x"),
        ("${a/\\//:}", ":local/bin/x.tar.gz"),
        ("${a//\\//:}", ":local:bin:x.tar.gz"),
        ("${a//l?/-}", "/-ca-bin/x.tar.gz"),
        ("${a/o*n/_}", "/l_/x.tar.gz"),
        ("${a//nothing/x}", "/local/bin/x.tar.gz"),
    ],
)
def test_patterns_trim_and_replace(word: str, expected: str) -> None:
    assert expand(word, {"a": "/local/bin/x.tar.gz"}).text == expected


def test_wildcards_stop_at_a_newline() -> None:
    assert expand("${a##*}", {"a": "one\ntwo"}).text == "\ntwo"


def test_every_empty_match_is_replaced_as_go_does() -> None:
    assert expand("${a///-}", {"a": "xy"}).text == "-x-y-"


def test_a_dollar_in_a_replacement_is_gos_template() -> None:
    assert expand("${a//b/$r}", {"a": "abc", "r": "[$0$1$$]"}).text == "a[b$]c"


def test_a_long_pattern_on_a_long_value_is_quick() -> None:
    assert expand("${a#" + "*a" * 2000 + "b}", {"a": "a" * 5000}).text == "a" * 5000


def glob(pattern: str, *, greedy: bool) -> str:
    """The same as a regular expression, for comparison."""
    star = ".*" if greedy else ".*?"
    return "".join({"*": star, "?": "."}.get(character, re.escape(character)) for character in pattern)


@settings(max_examples=200, deadline=None)
@given(st.text("ab*?\n", max_size=6), st.text("ab\n", max_size=8), st.booleans())
def test_patterns_match_what_the_regular_expression_matches(pattern: str, value: str, longest: bool) -> None:
    match = re.match(glob(pattern, greedy=longest), value)
    assert patterns.without_prefix(pattern, value, longest=longest) == (value[match.end() :] if match else value)
    once = re.sub(glob(pattern, greedy=True), "-", value, count=1)
    assert patterns.replace(pattern, "-", value, every=False) == once
