"""Stages: what is needed, what fires, what is looked for, which arguments are seen where."""

from __future__ import annotations

import pytest

from sandboxbuild.dockerfile import LowerOptions, base_images, lower, parse
from sandboxbuild.errors import DockerfileError
from sandboxbuild.oci.config import ImageConfig
from sandboxbuild.plan.operations import ContextSource, CopyOp, ImageSource
from sandboxbuild.plan.steps import BaseImage, BaseStage, Scratch
from tests.unit.dockerfile.planning import config, op, plan, steps


def numbers(text: str, **options: object) -> list[int]:
    return [stage.number for stage in plan(text, **options).stages]


def test_only_needed_stages_are_lowered_and_their_images_resolved() -> None:
    asked: list[BaseImage] = []

    def resolve(image: BaseImage) -> ImageConfig:
        asked.append(image)
        return ImageConfig()

    text = b"FROM a AS one\nFROM b AS two\nRUN ${\nFROM c\nCOPY --from=one x /\nRUN --mount=from=one,target=/m x\n"
    made = lower(parse(text), LowerOptions(), resolve)
    assert [stage.number for stage in made.stages] == [0, 2]
    assert sorted(asked) == [BaseImage("a"), BaseImage("c")]


def test_a_target_is_a_name_in_any_case() -> None:
    assert numbers("FROM scratch AS One\nFROM one\n", target="ONE") == [0]
    with pytest.raises(DockerfileError, match="could not be found"):
        plan("FROM scratch AS one\n", target="0")


def test_of_two_stages_with_a_name_the_last_counts() -> None:
    text = "FROM scratch AS a\nENV x=1\nFROM scratch AS a\nENV x=2\nFROM a\n"
    assert dict(config(text).env)["x"] == "2"
    assert plan(text, target="a").target == 1


def test_base_images_are_those_of_needed_stages() -> None:
    text = b"ARG V=1\nFROM a:$V AS x\nFROM b AS y\nFROM x\nCOPY --from=c:1 f /\nRUN --mount=from=d,target=/m x\n"
    found = base_images(parse(text), LowerOptions(build_args=(("V", "2"),)))
    assert [image.reference for image in found] == ["a:2", "c:1", "d"]


def test_triggers_fire_once_before_the_stage() -> None:
    images = {"i": ImageConfig(onbuild=("ARG A=1", "RUN echo $A", "COPY --from=s x /"))}
    text = "FROM scratch AS s\nFROM i AS a\nONBUILD ENV new=1\nFROM a\nCMD x\n"
    made = plan(text, images=images)
    assert [stage.number for stage in made.stages] == [0, 1, 2]
    assert [step.text for step in made.stages[1].steps] == [
        "ONBUILD ARG A=1",
        "ONBUILD RUN echo $A",
        "ONBUILD COPY --from=s x /",
        "ONBUILD ENV new=1",
    ]
    assert made.stages[1].steps[2].depends_on == (0,)
    assert made.stages[1].config.onbuild == ("ENV new=1",)
    assert [step.created_by for step in made.stages[2].steps] == ["ENV new=1", 'CMD ["/bin/sh" "-c" "x"]']
    assert made.stages[2].config.onbuild == ()


def test_a_trigger_with_a_heredoc_fires() -> None:
    assert op("FROM scratch AS a\nONBUILD COPY <<E /x\nbody\nE\nFROM a\n").sources[0].files == (("E", b"body\n"),)


@pytest.mark.parametrize("trigger", ["FROM x", "RUN a\nRUN b", "NONSENSE", "COPY --from=later a b", ""])
def test_a_bad_trigger_of_an_image_is_an_error_at_from(trigger: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        plan("FROM i\nFROM scratch AS later\n", images={"i": ImageConfig(onbuild=(trigger,))}, target="", all_stages=True)
    assert caught.value.span is not None
    assert caught.value.span.line == 1


def test_cycles_and_stages_further_down_are_refused() -> None:
    for text in ("FROM scratch\nCOPY --from=0 a b\n", "FROM scratch AS a\nCOPY --from=b x y\nFROM a AS b\n"):
        with pytest.raises(DockerfileError, match="circular"):
            plan(text)
    with pytest.raises(DockerfileError, match="needs to be defined before"):
        plan("FROM scratch AS a\nCOPY --from=b x y\nFROM scratch AS b\n", target="a")
    assert numbers("FROM scratch AS a\nCOPY --from=b x y\nFROM scratch AS b\n") == [1]


def test_a_stage_inherits_arguments_and_shell_but_not_its_cmd_mark() -> None:
    text = 'FROM scratch AS a\nARG A=x\nSHELL ["/s"]\nCMD ["c"]\nFROM a\nENTRYPOINT ["e"]\nRUN y\n'
    step = steps(text)[-1]
    assert step.created_by == "RUN |1 A=x /s y # buildkit"
    assert (step.config_after.cmd, step.config_after.entrypoint) == (None, ("e",))


def test_global_arguments_are_seen_in_from_and_on_demand_in_stages() -> None:
    text = "ARG A=1\nARG B=$A-$A\nFROM i:$B\nENV before=$A\nARG A\nARG B=own\nENV after=$A$B\n"
    made = plan(text, build_args=(("A", "2"),))
    assert made.stages[0].base == BaseImage("i:2-2")
    assert dict(made.stages[0].config.env)["after"] == "2own"
    assert dict(made.stages[0].config.env)["before"] == ""


def test_platform_arguments_follow_the_options() -> None:
    text = "FROM --platform=$BUILDPLATFORM i\nARG TARGETPLATFORM TARGETARCH TARGETVARIANT BUILDARCH TARGETSTAGE\nRUN x\n"
    made = plan(text, platform="linux/arm/v6", build_platform="linux/amd64")
    step = made.stages[0].steps[-1]
    assert made.stages[0].base == BaseImage("i", "linux/amd64")
    assert step.created_by == (
        "RUN |5 TARGETPLATFORM=linux/arm/v6 TARGETARCH=arm TARGETVARIANT=v6 BUILDARCH=amd64 TARGETSTAGE=default"
        " /bin/sh -c x # buildkit"
    )
    assert (step.config_after.architecture, step.config_after.variant) == ("arm", "v6")


def test_a_platform_that_nobody_asked_for_is_left_to_the_image() -> None:
    made = plan("FROM i\n", images={"i": ImageConfig(architecture="riscv64")})
    assert made.stages[0].base == BaseImage("i")
    assert made.stages[0].config.architecture == "riscv64"
    with pytest.raises(DockerfileError, match="failed to parse platform"):
        plan("FROM --platform=no/such/thing/here i\n")


@pytest.mark.parametrize("image", ["$EMPTY", "a/UPPER", "a b c", "a:b:c", "a@sha256:zz"])
def test_a_name_that_is_no_image_is_refused_in_unneeded_stages_too(image: str) -> None:
    with pytest.raises(DockerfileError):
        plan(f"FROM {image}\nFROM scratch\n")


def test_source_date_epoch_comes_from_options_arguments_or_the_file() -> None:
    text = "ARG SOURCE_DATE_EPOCH=5\nFROM scratch\n"
    assert plan(text).source_date_epoch == 5
    assert plan(text, build_args=(("SOURCE_DATE_EPOCH", "6"),)).source_date_epoch == 6
    assert plan("FROM scratch\n", source_date_epoch=7).source_date_epoch == 7
    assert plan(text, build_args=(("SOURCE_DATE_EPOCH", ""),)).source_date_epoch is None
    with pytest.raises(DockerfileError, match="invalid SOURCE_DATE_EPOCH"):
        plan("ARG SOURCE_DATE_EPOCH=context\nFROM scratch\n")


def test_named_contexts_take_the_place_of_stages_images_and_sources() -> None:
    named = (("alpine", "docker-image://example.com/a:1"), ("tree", "local"), ("built", "local"))
    text = "FROM alpine:latest\nCOPY --from=tree x /\nCOPY --from=docker.io/library/alpine y /\nCOPY --from=built z /\n"
    made = plan("FROM broken:$ AS built\nRUN x\n" + text, named_contexts=named)
    last = made.stage(made.target)
    assert last.base == BaseImage("example.com/a:1")
    sources = [step.op.sources[0] for step in last.steps if isinstance(step.op, CopyOp)]
    assert sources[:2] == [ContextSource("tree"), ImageSource("example.com/a:1")]


def test_from_a_context_that_is_a_tree_copies_it() -> None:
    made = plan("FROM tree\nENV a=b\n", named_contexts=(("tree", "local"),))
    assert made.stages[0].base == Scratch()
    assert made.stages[0].steps[0].op == CopyOp((ContextSource("tree"),), (("/",),), "/")


def test_a_stage_is_known_by_its_exact_name_in_from() -> None:
    assert plan("FROM scratch AS Base\nFROM base\n").stages[-1].base == BaseStage(0)
    with pytest.raises(DockerfileError):
        plan("FROM scratch AS Base\nFROM Base\n")
