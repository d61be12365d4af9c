"""Platforms."""

from __future__ import annotations

import pytest

from sandboxbuild.errors import UsageError
from sandboxbuild.oci.platform import Platform, choose, host_platform, matches, parse_platform


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("Linux/AArch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/v9", "linux/arm64/v9"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/7", "linux/arm/v7"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("linux/i386", "linux/386"),
        ("arm64", "linux/arm64"),
        ("aarch64", "linux/arm64"),
        ("linux", "linux/amd64"),
        ("macos/arm64", "darwin/arm64"),
        ("windows(10.0.17763)/amd64", "windows(10.0.17763)/amd64"),
        ("unknown/unknown", "unknown/unknown"),
    ],
)
def test_platform_is_normalised(text: str, normal: str) -> None:
    assert str(parse_platform(text)) == normal
    assert str(parse_platform(normal)) == normal


@pytest.mark.parametrize(
    "text", ["", "/", "linux/", "/amd64", "a/b/c/d", "linux/amd 64", "vax", "linux\n/arm", "linux/../x/y", "x" * 70]
)
def test_what_is_no_platform_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        parse_platform(text)


@pytest.mark.parametrize(
    ("machine", "text"),
    [
        ("x86_64", "linux/amd64"),
        ("aarch64", "linux/arm64"),
        ("armv7l", "linux/arm/v7"),
        ("armv6l", "linux/arm/v6"),
        ("i686", "linux/386"),
        ("riscv64", "linux/riscv64"),
        ("s390x", "linux/s390x"),
        ("loongarch64", "linux/loong64"),
    ],
)
def test_host_is_named_as_go_names_it(machine: str, text: str) -> None:
    assert str(host_platform("Linux", machine)) == text


@pytest.mark.parametrize(
    ("wanted", "candidates", "chosen"),
    [
        ("linux/amd64", ["linux/arm64", "linux/amd64"], 1),
        ("linux/amd64", ["linux/amd64/v3", "linux/amd64/v2"], None),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], 1),
        ("linux/amd64", ["linux/386"], 0),
        ("linux/386", ["linux/amd64"], None),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6", "linux/arm/v8"], 1),
        ("linux/arm64", ["linux/arm/v7", "linux/arm64/v8"], 1),
        ("linux/arm64", ["linux/arm/v7", "linux/arm/v8"], 1),
        ("linux/amd64", ["unknown/unknown", "linux/amd64", "linux/amd64"], 1),
        ("linux/amd64", ["", "linux/amd64"], 1),
        ("linux/amd64", ["", "linux/arm64"], 0),
        ("linux/amd64", ["???", "windows/amd64"], None),
        ("windows(10.0.2)/amd64", ["windows(10.0.1)/amd64", "windows(10.0.2)/amd64"], 1),
        ("linux/amd64", [], None),
    ],
)
def test_best_candidate_is_chosen(wanted: str, candidates: list[str], chosen: int | None) -> None:
    assert choose(candidates, wanted) == chosen


def test_image_without_platform_serves_anyone() -> None:
    assert matches("", "linux/s390x")
    assert not matches(Platform("linux", "amd64"), "linux/s390x")
