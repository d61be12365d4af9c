"""Config and history of each case of the corpus, from `parse` and `lower` alone: no sandbox, no files."""

from __future__ import annotations

import importlib
import json
import posixpath
from pathlib import Path
from typing import Any

import pytest

from sandboxbuild.dockerfile import LowerOptions, base_images, lower, parse
from sandboxbuild.errors import DockerfileError, RegistryError
from sandboxbuild.oci.config import ImageConfig, decode_config, encode_config
from sandboxbuild.plan.steps import BaseImage, BaseStage, BuildPlan
from tests.support.corpus import corpus_folder, load_tool

FOUND_IN_THE_TEXT = frozenset({"parse", "unknown-instruction", "target-not-found", "circular"})
PATTERNS_AND_NAMES = frozenset({"own/ignore-malformed", "own/wildcard-malformed", "buildkit/dockerignoreinvalid"})


def all_cases() -> list[Any]:
    folder = corpus_folder()
    return list(load_tool(folder).load_all(folder / "cases")) if folder else []


def fixture_config(image: BaseImage) -> ImageConfig:
    """The config of a fixture image, as the tool would write it; any tag answers."""
    name = image.reference.removeprefix("base.test/").partition(":")[0]
    for fixture in importlib.import_module("bases").IMAGES:
        if image.reference.startswith("base.test/") and any(known.partition(":")[0] == name for known in fixture.names):
            document = {"os": "linux", "architecture": "amd64", "config": fixture.config, "rootfs": {"type": "layers"}}
            return decode_config(json.dumps(document | {"rootfs": {"type": "layers", "diff_ids": []}}).encode())
    raise RegistryError(f"no fixture {image.reference}")


def options_of(case: Any) -> LowerOptions:
    given = case.options
    return LowerOptions(
        target=given.get("target", ""),
        build_args=tuple(given.get("build_args", {}).items()),
        labels=tuple(given.get("labels", {}).items()),
    )


def plan_of(case: Any) -> BuildPlan:
    text = case.dockerfile.encode("utf-8", "surrogateescape")
    return lower(parse(text), options_of(case), fixture_config)


def empty_layers(plan: BuildPlan, number: int) -> list[bool]:
    stage = plan.stage(number)
    below = empty_layers(plan, stage.base.stage) if isinstance(stage.base, BaseStage) else []
    return below + [step.op is None for step in stage.steps if step.has_history]


def observed(config: ImageConfig) -> dict[str, Any]:
    """The config as the corpus writes it down."""
    document = json.loads(encode_config(config))
    inner = {key: value for key, value in (document.get("config") or {}).items() if value and key != "ArgsEscaped"}
    for name in ("ExposedPorts", "Volumes"):
        if name in inner:
            inner[name] = sorted(inner[name])
    return inner | ({"Author": document["author"]} if document.get("author") else {})


def without_root(config: dict[str, Any]) -> dict[str, Any]:
    """WORKDIR "/" is none."""
    workdir = posixpath.normpath(config.get("WorkingDir", "/"))
    rest = {key: value for key, value in config.items() if key != "WorkingDir"}
    return rest if workdir == "/" else rest | {"WorkingDir": workdir}


def test_the_cases_are_there(corpus: Path) -> None:
    assert len(all_cases()) > 700


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.id)
def test_a_case_lowers_to_its_recorded_config(case: Any) -> None:
    expected = case.expected
    if expected["outcome"] == "error":
        text_is_wrong = expected["class"] in FOUND_IN_THE_TEXT or (
            expected["class"] == "substitution" and case.id not in PATTERNS_AND_NAMES
        )
        try:
            plan_of(case)
        except DockerfileError as error:
            assert error.span is not None
            assert error.source or error.span.line == 1
        else:
            assert not text_is_wrong
        return
    plan = plan_of(case)
    assert without_root(observed(plan.stage(plan.target).config)) == without_root(expected["config"])
    if "history" in expected:
        assert empty_layers(plan, plan.target) == expected["history"]


@pytest.mark.parametrize("case", [case for case in all_cases() if case.expected["outcome"] == "ok"], ids=lambda case: case.id)
def test_only_images_that_were_announced_are_resolved(case: Any) -> None:
    dockerfile = parse(case.dockerfile.encode("utf-8", "surrogateescape"))
    announced = base_images(dockerfile, options_of(case))

    def resolve(image: BaseImage) -> ImageConfig:
        assert image in announced
        return fixture_config(image)

    lower(dockerfile, options_of(case), resolve)
