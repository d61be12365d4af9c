"""A RUN is refused where this host can't run its platform's programs, and only there."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandboxbuild.dockerfile import LowerOptions, lower, parse
from sandboxbuild.errors import DockerfileError
from sandboxbuild.executor.platforms import check_runnable
from sandboxbuild.launcher.emulation import emulated_architecture, emulated_architectures
from sandboxbuild.oci.config import ImageConfig
from sandboxbuild.plan.steps import BaseImage, BuildPlan

QEMU_ARM64 = """enabled
interpreter /usr/bin/qemu-aarch64
flags: POCF
offset 0
magic 7f454c460201010000000000000000000200b700
mask ffffffffffffff00fffffffffffffffffeffffff
"""


def planned(text: str, platform: str, *, base: str = "") -> BuildPlan:
    def resolve(image: BaseImage) -> ImageConfig:
        return ImageConfig("linux", base or (image.platform or platform or "linux/amd64").partition("/")[2])

    options = LowerOptions(platform=platform, build_platform="linux/amd64")
    return lower(parse(text.encode()), options, resolve)


@pytest.mark.parametrize(
    ("text", "platform"),
    [
        ("FROM a\nRUN x\n", "linux/amd64"),
        ("FROM a\nRUN x\n", "linux/386"),
        ("FROM a\nRUN x\n", ""),
        ("FROM a\nCOPY x /x\n", "linux/arm64"),
        ("FROM --platform=$BUILDPLATFORM a AS b\nRUN x\nFROM scratch\nCOPY --from=b /x /x\n", "linux/arm64"),
    ],
)
def test_what_runs_natively_is_let_through(text: str, platform: str) -> None:
    check_runnable(planned(text, platform), "linux/amd64", ())


@pytest.mark.parametrize("text", ["FROM a\nENV A=1\nRUN x\n", "FROM scratch\nENV A=1\nRUN x\n"])
def test_a_foreign_run_is_refused_at_its_line(text: str) -> None:
    with pytest.raises(DockerfileError, match="a step of linux/arm64 can't run here: this host is linux/amd64") as caught:
        check_runnable(planned(text, "linux/arm64"), "linux/amd64", ("riscv64",))
    assert caught.value.span is not None
    assert caught.value.span.line == 3
    assert "BUILDPLATFORM" in caught.value.hint


def test_a_foreign_run_is_let_through_with_an_interpreter() -> None:
    check_runnable(planned("FROM a\nRUN x\n", "linux/arm64"), "linux/amd64", ("arm64",))


def test_a_base_of_the_host_s_platform_runs_whatever_was_asked_for() -> None:
    check_runnable(planned("FROM a\nRUN x\n", "linux/arm64", base="amd64"), "linux/amd64", ())


def test_an_entry_of_binfmt_misc_names_its_architecture() -> None:
    assert emulated_architecture(QEMU_ARM64) == "arm64"
    big = QEMU_ARM64.replace("7f454c460201010000000000000000000200b700", "7f454c4602020100000000000000000000020016")
    assert emulated_architecture(big) == "s390x"


@pytest.mark.parametrize(
    "change",
    [("POCF", "POC"), ("enabled", "disabled"), ("offset 0", "offset 4"), ("magic 7f", "magic 7e"), ("magic 7f", "magic zz")],
)
def test_an_entry_that_is_of_no_use_in_a_step_is_passed_over(change: tuple[str, str]) -> None:
    assert emulated_architecture(QEMU_ARM64.replace(*change)) == ""


def test_a_host_s_interpreters_are_read_from_its_entries(tmp_path: Path) -> None:
    (tmp_path / "register").write_text("")
    (tmp_path / "status").write_text("enabled\n")
    (tmp_path / "qemu-aarch64").write_text(QEMU_ARM64)
    (tmp_path / "python").write_text("enabled\ninterpreter /usr/bin/python\nflags: \noffset 0\nmagic a70d0d0a\n")
    assert emulated_architectures(str(tmp_path)) == ("arm64",)
    assert emulated_architectures(str(tmp_path / "absent")) == ()
