"""What people type for buildx, buildah and kaniko means here what it means there."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.cli.argv import normalise, spellings
from sandboxbuild.cli.options import FALSE_ONLY_FLAGS, IGNORED_FLAGS, REFUSED_FLAGS, RUN_FLAGS
from sandboxbuild.errors import UsageError

EVERY_FLAG = (*RUN_FLAGS, *IGNORED_FLAGS, *REFUSED_FLAGS, *FALSE_ONLY_FLAGS)
TABLE = spellings(EVERY_FLAG)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--cache=true", "--no-cache=false"),
        ("--cache=false", "--no-cache=true"),
        ("--cache", "--no-cache=false"),
        ("--no-cache", "--no-cache=true"),
        ("--no-cache=F", "--no-cache=false"),
        ("--push=false", "--push=false"),
        ("--push=T", "--push=true"),
        ("--no-push", "--push=false"),
        ("--no-push=false", "--push=true"),
        ("--pull .", "--pull=true ."),
        ("--pull=always .", "--pull=always ."),
        ("-d=b", "--destination=b"),
        ("-d b", "--destination=b"),
        ("-db", "--destination=b"),
        ("--destination b", "--destination=b"),
        ("-o - .", "--output=- ."),
        ("-f - .", "--file=- ."),
        ("--dockerfile=x", "--file=x"),
        ("--customPlatform=linux/arm64", "--platform=linux/arm64"),
        ("--tarPath x.tar", "--tar-path=x.tar"),
        ("--build-arg A=B=C", "--build-arg=A=B=C"),
        ("--build-arg -x", "--build-arg=-x"),
        ("-qt a .", "--quiet=true --tag=a ."),
        ("-v=debug", "--verbosity=debug"),
        (". --tag a", ". --tag=a"),
        ("-", "-"),
        ("-t a -- -t b", "--tag=a -- -t b"),
        ("--unknown x", "--unknown x"),
        ("--tag", "--tag"),
        ("--whitelist-var-run=false", "--ignore-var-run=false"),
    ],
)
def test_a_spelling_means(typed: str, meant: str) -> None:
    assert normalise(typed.split(), TABLE) == meant.split()


def test_a_switch_with_another_word_is_refused() -> None:
    with pytest.raises(UsageError, match="--no-cache takes true or false"):
        normalise(["--no-cache=maybe"], TABLE)


def test_no_spelling_belongs_to_two_flags() -> None:
    every = [
        spelling
        for flag in EVERY_FLAG
        for spelling in (flag.name, flag.short, *getattr(flag, "aliases", ()), *getattr(flag, "negations", ()))
        if spelling
    ]
    assert sorted(set(every)) == sorted(every)


@settings(max_examples=60)
@given(st.lists(st.sampled_from([*TABLE, "--push=false", "-d=b", "-", "x", "--x"]) | st.text(max_size=4), max_size=6))
def test_what_is_normal_stays_as_it_is(argv: list[str]) -> None:
    try:
        once = normalise(argv, TABLE)
    except UsageError:
        return
    if not any(word in TABLE for word in once):  # a flag that lacks its value, at the end
        assert normalise(once, TABLE) == once
