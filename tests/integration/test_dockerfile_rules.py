"""Rules of the Dockerfile that only a build can show, each beside others in one build."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from tests.support.builder import Builder

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]
BUSYBOX = "/bin/busybox"


@pytest.fixture
def context(builder: Builder) -> Path:
    made = builder.context({
        "busybox": Path(BUSYBOX).read_bytes(),
        "theirs/file": "theirs",
        "theirs/secret": "ignored",
        "ours": "ours",
        ".dockerignore": "theirs/secret\n",
    })  # fmt: skip
    os.chmod(made / "theirs/file", 0o640)
    return made


def built(builder: Builder, context: Path, text: str) -> Path:
    (context / "Dockerfile").write_text(text)
    target = builder.folder / "out"
    builder.run("-o", f"type=rootfs,dest={target}", context)
    return target


@pytest.mark.parametrize("owner", [0, 1234])
def test_mounts_are_roots_take_writes_that_go_nowhere_and_lie_in_each_other(
    builder: Builder, context: Path, owner: int
) -> None:
    for path in ("theirs", "theirs/file"):
        os.chown(context / path, owner, owner)
    text = (
        "FROM scratch\nCOPY busybox /bin/busybox\n"
        'RUN ["/bin/busybox", "ln", "-s", "busybox", "/bin/sh"]\n'
        "RUN --mount=type=bind,target=/m,rw busybox touch /m/new /m/theirs/new && "
        "busybox stat -c %u:%g:%a /m /m/theirs /m/theirs/file > /whole; busybox ls -A /m/theirs >> /whole\n"
        "RUN --mount=type=bind,source=theirs,target=/m busybox stat -c %u:%g:%a /m /m/file > /part; busybox ls /m >> /part\n"
        "RUN --mount=type=bind,source=theirs,target=/t/in --mount=type=tmpfs,target=/t --mount=type=secret,id=none,env=NONE "
        'busybox stat -c %u:%g:%a /t > /tmpfs; busybox ls /t/in >> /tmpfs; echo "${NONE-unset}." >> /tmpfs\n'
        "RUN --mount=type=bind,source=theirs/file,target=/m busybox stat -c %u:%g:%a /m > /one\n"
    )
    out = built(builder, context, text)
    assert (out / "whole").read_text().split() == ["0:0:755", "0:0:755", "0:0:640", "file", "new"]
    assert (out / "part").read_text().split() == ["0:0:755", "0:0:640", "file"]
    assert (out / "tmpfs").read_text().split() == ["0:0:1777", "file", "."]
    assert (out / "one").read_text() == "0:0:640\n"
    assert sorted(os.listdir(context / "theirs")) == ["file", "secret"]
    assert not (context / "new").exists()


def test_a_mount_takes_the_place_of_the_files_by_which_names_are_found(builder: Builder, context: Path) -> None:
    text = (
        "FROM scratch\nCOPY busybox /bin/busybox\n"
        'RUN ["/bin/busybox", "ln", "-s", "busybox", "/bin/sh"]\n'
        "RUN --mount=type=bind,source=ours,target=/etc/hosts --mount=type=bind,source=ours,target=/etc/./resolv.conf "
        "busybox cat /etc/hosts /etc/resolv.conf > /seen && busybox grep -c . /etc/hostname >> /seen\n"
    )
    (context / "ours").write_text("of the context\n")
    out = built(builder, context, text)
    assert (out / "seen").read_text() == "of the context\nof the context\n1\n"
    assert not (out / "etc").exists()


def test_scratch_is_an_empty_source_and_an_archive_stays_where_it_is_added(builder: Builder, context: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in ("../up", "d/../../over", "in"):
            archive.addfile(tarfile.TarInfo(name))
    (context / "a.tar").write_bytes(packed.getvalue())
    text = (
        "FROM scratch\nCOPY --from=scratch / /empty\nADD a.tar /x/y/\n"
        "COPY --from=scratch /nothing* /none/\nCOPY --chown=5: ours /five\n"
    )
    out = built(builder, context, text)
    assert sorted(os.listdir(out)) == ["empty", "five", "x"]
    assert os.listdir(out / "empty") == []
    assert (os.listdir(out / "x"), sorted(os.listdir(out / "x/y"))) == (["y"], ["in", "over", "up"])
