"""The plan as a graph: which stage needs which, which are needed at all, which steps can start now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sandboxbuild.errors import DockerfileError
from sandboxbuild.plan.steps import BaseStage, BuildPlan, Stage


class ReadyStep(NamedTuple):
    """The step `number` (from 0) of stage `stage`."""

    stage: int
    number: int


def stage_inputs(stage: Stage) -> tuple[int, ...]:
    """The stages that `stage` reads from, its base first, each once."""
    base = (stage.base.stage,) if isinstance(stage.base, BaseStage) else ()
    return tuple(dict.fromkeys((*base, *(number for step in stage.steps for number in step.depends_on))))


def needed_stages(stages: Sequence[Stage], target: int) -> tuple[int, ...]:
    """The numbers of the stages that `target` depends on, and its own, in the order of the file.

    Raises DockerfileError if a stage depends on itself, on a later one, or on one that doesn't exist.
    """
    by_number = {stage.number: stage for stage in stages}
    needed: set[int] = set()
    waiting = [target]
    while waiting:
        number = waiting.pop()
        if number in needed:
            continue
        needed.add(number)
        stage = by_number[number]
        for other in stage_inputs(stage):
            if other not in by_number or other >= number:
                raise DockerfileError(f"stage {number} can't use stage {other}: only earlier ones", span=stage.span)
            waiting.append(other)
    return tuple(sorted(needed))


def ready_steps(plan: BuildPlan, started: Mapping[int, int], finished: Mapping[int, int]) -> tuple[ReadyStep, ...]:
    """The steps that may start now, at most one of a stage, in the order of the file.

    `started` and `finished` count a stage's steps that have been; absent is none. A step waits for the one before it, the
    first for the stage's base, and each for all stages that it reads from to be finished whole.
    """
    return tuple(
        ReadyStep(stage.number, started.get(stage.number, 0))
        for stage in plan.stages
        if _can_start_next(plan, stage, started.get(stage.number, 0), finished)
    )


def _can_start_next(plan: BuildPlan, stage: Stage, index: int, finished: Mapping[int, int]) -> bool:
    if index >= len(stage.steps) or finished.get(stage.number, 0) < index:
        return False
    base = (stage.base.stage,) if isinstance(stage.base, BaseStage) and index == 0 else ()
    return all(is_finished(plan, number, finished) for number in (*base, *stage.steps[index].depends_on))


def is_finished(plan: BuildPlan, number: int, finished: Mapping[int, int]) -> bool:
    """Whether the filesystem of stage `number` is whole: its steps are done or, where it has none, its base's."""
    stage = plan.stage(number)
    while not stage.steps and isinstance(stage.base, BaseStage):
        stage = plan.stage(stage.base.stage)
    return finished.get(stage.number, 0) >= len(stage.steps)
