"""What .gitmodules says, and where a relative URL leads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxbuild.contexts.gitmodules import Submodule, parse_gitmodules, submodule_url
from sandboxbuild.errors import ContextError

WRITTEN = b"""# a comment
[submodule "lib/one"]
\tpath = lib/one
\turl = ../one.git
[submodule "two \\"q\\""]
\tpath = "two words"  ; behind
\tURL = https://example.com/two.git
\tupdate = none
\tshallow
[other "x"]
\tpath = elsewhere
[submodule "lib/one"] url = ./later.git
"""


def test_sections_and_settings_are_read_as_git_writes_them() -> None:
    assert parse_gitmodules(WRITTEN) == {
        b"lib/one": Submodule(b"lib/one", b"lib/one", b"./later.git"),
        b"two words": Submodule(b'two "q"', b"two words", b"https://example.com/two.git", b"none"),
    }


@pytest.mark.parametrize("text", [b"[submodule", b'[submodule "x"]\nurl = "a', b'[submodule "x"]\nurl = a\\z', b"\x00", b"= 1"])
def test_what_git_would_not_read_is_an_error(text: bytes) -> None:
    with pytest.raises(ContextError):
        parse_gitmodules(text)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(text: bytes) -> None:
    try:
        parse_gitmodules(b'[submodule "a"]\n' + text)
    except ContextError:
        pass


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("https://other.example.com/x.git", "https://other.example.com/x.git"),
        ("./x.git", "https://example.com/team/app.git/x.git"),
        ("../x.git", "https://example.com/team/x.git"),
        ("../../x", "https://example.com/x"),
        ("../.././x/", "https://example.com/x"),
    ],
)
def test_relative_urls_stand_on_the_parents(url: str, meant: str) -> None:
    assert submodule_url("https://example.com/team/app.git/", url) == meant


@pytest.mark.parametrize("url", ["", "../../../../x", "../../../x", "https://example.com/a b", "x\ny"])
def test_urls_that_lead_nowhere_are_refused(url: str) -> None:
    with pytest.raises(ContextError):
        submodule_url("https://example.com/team/app.git", url)
