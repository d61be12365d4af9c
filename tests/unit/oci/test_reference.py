"""References."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.errors import UsageError
from sandboxbuild.oci.reference import Reference, parse_reference

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("alpine", "docker.io/library/alpine:latest"),
        ("alpine:3.20", "docker.io/library/alpine:3.20"),
        ("library/alpine", "docker.io/library/alpine:latest"),
        ("team/app", "docker.io/team/app:latest"),
        ("index.docker.io/alpine", "docker.io/library/alpine:latest"),
        ("docker.io/alpine", "docker.io/library/alpine:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest"),
        ("localhost:5000", "docker.io/library/localhost:5000"),
        ("host:5000/a/b/c:tag", "host:5000/a/b/c:tag"),
        ("registry.example.com/a__b/c-d---e/f.g", "registry.example.com/a__b/c-d---e/f.g:latest"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        ("[fd00::2]/app:x", "[fd00::2]/app:x"),
        ("Upper/app", "Upper/app:latest"),
        (f"alpine@{DIGEST}", f"docker.io/library/alpine@{DIGEST}"),
        (f"alpine:3@{DIGEST}", f"docker.io/library/alpine:3@{DIGEST}"),
        ("a:" + "t" * 128, "docker.io/library/a:" + "t" * 128),
        ("10.0.0.1/x", "10.0.0.1/x:latest"),
    ],
)
def test_reference_is_normalised_as_docker_does(text: str, full: str) -> None:
    assert str(parse_reference(text)) == full
    assert parse_reference(full) == parse_reference(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "/",
        "@",
        "a:",
        "a@",
        "A",
        "a/B",
        "-a",
        "a-",
        "a..b",
        "a___b",
        "a/",
        "/a",
        "a//b",
        "a:t:u",
        "a:-t",
        "a:t/u/",
        "a b",
        "a\n",
        "a:" + "t" * 129,
        "a@sha256:short",
        f"a@{DIGEST.upper()}",
        "0123456789abcdef" * 4,
        "host:0/a",
        "host:65536/a",
        "host:99999999/a",
        "-h.com/a",
        "h-.com/a",
        "[::1/a",
        "../a",
        "a/../b",
        "x" * 2000,
        "é",
        "docker.io/",
        "http://h/a",
        "h.com:/a",
    ],
)
def test_what_the_grammar_does_not_have_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_reference(text)


def test_name_longer_than_255_is_refused() -> None:
    assert parse_reference("h.example.com/" + "a" * 255).repository == "a" * 255
    with pytest.raises(UsageError):
        parse_reference("h.example.com/" + "a" * 256)


@pytest.mark.parametrize(
    ("text", "familiar"),
    [
        ("alpine", "alpine:latest"),
        ("team/app:1", "team/app:1"),
        ("h:5/x", "h:5/x:latest"),
        (f"alpine@{DIGEST}", f"alpine@{DIGEST}"),
    ],
)
def test_familiar_form_leaves_docker_out(text: str, familiar: str) -> None:
    assert parse_reference(text).familiar == familiar


def test_target_is_the_digest_where_there_is_one() -> None:
    assert parse_reference(f"alpine:3@{DIGEST}").target == DIGEST
    assert parse_reference("alpine:3").target == "3"


def test_name_has_neither_tag_nor_digest() -> None:
    assert Reference("h", "a/b", "t", DIGEST).name == "h/a/b"


@settings(max_examples=150)
@given(st.text(alphabet="aA0./:@-_[]% é\n", max_size=20))
def test_any_text_is_refused_or_reads_back_the_same(text: str) -> None:
    try:
        reference = parse_reference(text)
    except UsageError:
        return
    assert parse_reference(str(reference)) == reference
    assert parse_reference(reference.familiar) == reference
