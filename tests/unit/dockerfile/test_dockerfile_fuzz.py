"""Any bytes give a plan or a DockerfileError with a span."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.dockerfile import LowerOptions, base_images, check, lower, parse
from sandboxbuild.errors import DockerfileError
from sandboxbuild.oci.config import ImageConfig

PIECES = (
    "FROM |scratch|busybox| AS |a|COPY |--from=|RUN |--mount=|type=|cache|,target=/x|,id=$A|<<EOF|<<-'E'|\nEOF|\n|\n|\n|\\\n"
    '|\\|`|#|# escape=`\n|# check=|ARG |ENV |A=|$|${|}|:-|%|/|//|*|?|"|\'|[|"]|HEALTHCHECK |CMD |--interval=1s |EXPOSE |80'
    '|-90|/tcp|:|USER |VOLUME |ONBUILD |SHELL |["/bin/sh"]|STOPSIGNAL |9|WORKDIR |LABEL |MAINTAINER |ADD |http://x/|.git'
    "|#ref|--chmod=|777|--link |-- |\t|\r|\x00|\ufeff|é|\u2028|ENTRYPOINT |--platform=|linux/amd64 |ssh|secret|{|1|$A|${A}"
)
BASE = ImageConfig(onbuild=("RUN x", "COPY . .", "ARG A=$A"))


def build(text: bytes) -> None:
    """Everything that is done with a Dockerfile; an error must be a good one."""
    options = LowerOptions(build_args=(("A", "x"),), all_stages=True)
    try:
        dockerfile = parse(text)
        base_images(dockerfile, options)
        check(dockerfile, options)
        lower(dockerfile, options, lambda _: BASE)
    except DockerfileError as error:
        assert error.span is not None
        assert 1 <= error.span.line <= error.span.end_line
        assert (error.message + error.source + error.hint).encode()


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_plan_or_a_good_error(text: bytes) -> None:
    build(text)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES.split("|")), max_size=40))
def test_any_mix_of_the_language_is_a_plan_or_a_good_error(pieces: list[str]) -> None:
    build(("FROM busybox AS a\n" + "".join(pieces)).encode())


@pytest.mark.parametrize(
    "text",
    [
        "FROM a\nENV a=" + "${a:-" * 10_000,
        "FROM a\nENV a=x\n" + "ENV a=$a$a\n" * 60,
        "FROM a\nRUN " + "--mount=type=ssh " * 3_000,
        "FROM a\nEXPOSE " + "1-65535 " * 1_000,
        "FROM a\nCMD " + "[" * 60_000,
        "FROM a\nRUN x" + " " * 60_000 + "y",
        "# syntax=a" + " " * 60_000 + "b\nFROM a\n",
        "FROM a\nENV a=" + "a" * 30_000 + "\nENV b=${a#" + "*a" * 10_000 + "b}\n",
        "FROM a\nRUN " + "<<a " * 15_000,
        "FROM a\nENV a=" + "'x'\"y\"\\z" * 6_000,
        "ONBUILD " * 5_000,
    ],
    ids=lambda text: text[:20],
)
def test_hostile_files_are_done_with_quickly(text: str) -> None:
    start = time.process_time()
    build(text.encode())
    assert time.process_time() - start < 5


def test_a_hundred_stages_in_a_chain_do_not_recurse() -> None:
    build("".join(["FROM scratch AS s0\n", *(f"FROM s{number} AS s{number + 1}\n" for number in range(400))]).encode())
