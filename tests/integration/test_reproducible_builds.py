"""With SOURCE_DATE_EPOCH a build gives the same bytes in another store, at another time, from files of another time."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.support.builder import Builder, run_tool
from tests.support.built import Built, read_image
from tests.support.images import busybox_layout

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

EPOCH = 1_600_000_000
TEXT = """FROM BASE AS made
ARG SOURCE_DATE_EPOCH
RUN mkdir -p /out/b /out/a; echo x > /out/b/f; ln /out/b/f /out/a/hard; ln -s f /out/b/soft
RUN echo "[$SOURCE_DATE_EPOCH]" > /out/epoch
FROM BASE
WORKDIR /work/deep
COPY . ./
ADD --chown=1000:4242 packed.txt /other/place/
COPY --from=made /out /out
RUN touch now; rm /etc/group
ENV A=1
"""


@pytest.fixture
def base(registry: str) -> str:
    name = f"{registry}/base:1"
    run_tool("skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{busybox_layout()}:latest", f"docker://{name}")
    return name


def build_at_another_time(builder: Builder, base: str, number: int, *flags: str) -> Built:
    """A build with a store of its own, from a fresh copy of the context; another second than the one before."""
    time.sleep(1.1)
    each = Builder(builder.folder, builder.folder / f"store-{number}")
    each.environment = builder.environment
    files = {"Dockerfile": TEXT.replace("BASE", base), "packed.txt": "packed", "folder/file": "file"}
    context = each.context(files, f"context-{number}")
    for path in (context, *context.rglob("*")):
        os.utime(path, (EPOCH + 100 * number + 5,) * 2)
    layout = builder.folder / f"layout-{number}"
    each.run("-f", context / "Dockerfile", "-o", f"type=oci,tar=false,dest={layout}", *flags, context)
    each.remove_store()
    return read_image(layout)


@pytest.mark.parametrize("way", ["flag", "environment", "build-arg"])
def test_two_builds_give_the_same_digest(builder: Builder, base: str, way: str) -> None:
    flags = {"flag": ["--source-date-epoch", str(EPOCH)], "build-arg": ["--build-arg", f"SOURCE_DATE_EPOCH={EPOCH}"]}
    if way == "environment":
        builder.environment["SOURCE_DATE_EPOCH"] = str(EPOCH)
    first, second = (build_at_another_time(builder, base, number, *flags.get(way, [])) for number in (1, 2))
    assert first.digest == second.digest
    assert first.config["created"] == "2020-09-13T12:26:40Z"
    assert first.tree()["out/epoch"].text == f"[{EPOCH}]\n"
    made = [member for layer in first.layers[1:] for member, _ in layer if ".wh." not in member.name]
    assert {(member.name, member.mtime) for member in made if member.mtime != EPOCH} == set()


def test_without_a_time_the_times_are_kept(builder: Builder, base: str) -> None:
    built = build_at_another_time(builder, base, 1)
    tree = built.tree()
    assert tree["work/deep/folder/file"].mtime == EPOCH + 105
    assert tree["work/deep/now"].mtime > time.time() - 100
    assert tree["out/epoch"].text == "[]\n"


def test_a_time_that_is_none_is_a_usage_error(builder: Builder) -> None:
    context = builder.context({"Dockerfile": "FROM scratch\nENV A=1\n"})
    done = builder.fail(2, "--source-date-epoch", "yesterday", context)
    assert "--source-date-epoch" in done.last_error
    builder.fail(3, "--build-arg", "SOURCE_DATE_EPOCH=yesterday", context)


def test_reproducible_is_the_time_zero(builder: Builder) -> None:
    context = builder.context({"Dockerfile": "FROM scratch\nCOPY f /f\n", "f": "x"})
    layout = Path(builder.folder / "layout")
    builder.run("--reproducible", "-o", f"type=oci,tar=false,dest={layout}", context)
    built = read_image(layout)
    assert (built.config["created"], built.tree()["f"].mtime) == ("1970-01-01T00:00:00Z", 0)
