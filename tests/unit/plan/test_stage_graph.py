from __future__ import annotations

import pytest

from sandboxbuild.errors import DockerfileError, Span
from sandboxbuild.oci.config import ImageConfig
from sandboxbuild.plan.graph import is_finished, needed_stages, ready_steps, stage_inputs
from sandboxbuild.plan.steps import Base, BaseStage, BuildPlan, Scratch, Stage, Step

SPAN = Span("Dockerfile", 1, 1)


def step(*depends_on: int) -> Step:
    return Step("RUN x", SPAN, None, ImageConfig(), "", depends_on=depends_on)


SCRATCH = Scratch()


def stage(number: int, base: Base = SCRATCH, *steps: Step) -> Stage:
    return Stage(number, "", base, "linux/amd64", ImageConfig(), steps, SPAN, "FROM x")


def plan(*stages: Stage) -> BuildPlan:
    return BuildPlan(stages, stages[-1].number)


def test_a_stage_reads_its_base_and_what_its_steps_name() -> None:
    assert stage_inputs(stage(3, BaseStage(1), step(2), step(1, 0))) == (1, 2, 0)


def test_only_what_the_target_depends_on_is_needed() -> None:
    stages = (stage(0), stage(1), stage(2, BaseStage(0)), stage(3, SCRATCH, step(2)), stage(4))
    assert needed_stages(stages, 3) == (0, 2, 3)
    assert needed_stages(stages, 4) == (4,)


@pytest.mark.parametrize("other", [1, 2, 9])
def test_a_stage_that_needs_itself_a_later_or_a_missing_one_is_an_error(other: int) -> None:
    with pytest.raises(DockerfileError, match=f"stage 1 can't use stage {other}"):
        needed_stages((stage(0), stage(1, SCRATCH, step(other)), stage(2)), 1)


def test_stages_without_dependencies_start_together() -> None:
    both = plan(stage(0, SCRATCH, step()), stage(1, SCRATCH, step()), stage(2, BaseStage(0), step(1)))
    assert ready_steps(both, {}, {}) == ((0, 0), (1, 0))


def test_a_step_waits_for_the_one_before_it() -> None:
    one = plan(stage(0, SCRATCH, step(), step()))
    assert ready_steps(one, {0: 1}, {}) == ()
    assert ready_steps(one, {0: 1}, {0: 1}) == ((0, 1),)
    assert ready_steps(one, {0: 2}, {0: 2}) == ()


def test_a_step_waits_for_all_of_the_stages_that_it_reads() -> None:
    two = plan(stage(0, SCRATCH, step(), step()), stage(1, SCRATCH, step(0)))
    assert ready_steps(two, {0: 1}, {0: 1}) == ((0, 1),)
    assert ready_steps(two, {0: 2}, {0: 2}) == ((1, 0),)


def test_a_stage_without_steps_is_finished_when_its_base_is() -> None:
    three = plan(stage(0, SCRATCH, step()), stage(1, BaseStage(0)), stage(2, SCRATCH, step(1)))
    assert ready_steps(three, {}, {}) == ((0, 0),)
    assert not is_finished(three, 1, {})
    assert ready_steps(three, {0: 1}, {0: 1}) == ((2, 0),)
