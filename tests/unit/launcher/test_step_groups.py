"""What an executor asks for its steps' cgroups, and what it gets: never more than it may have at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandboxbuild.errors import IsolationError, ProtocolError
from sandboxbuild.executor.stepgroups import AskedGroups
from sandboxbuild.launcher.limits import EXECUTOR, together
from sandboxbuild.launcher.stepgroups import StepGroups
from sandboxbuild.protocol.frames import FrameBuffer
from sandboxbuild.protocol.groups import GroupClosed, GroupLeft, GroupQuestion, GroupReady, GroupWanted, framed
from sandboxbuild.system.cgroups import PREFIX, Place
from sandboxbuild.system.groups import Bounds, BuildGroup

HERE = os.stat("/proc/self/ns/pid").st_ino
INSIDE = int(next(line for line in Path("/proc/self/status").read_text().splitlines() if "NSpid" in line).split()[-1])


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """The build's folder, in which this process stands for one of the sandbox's."""
    return tmp_path / f"{PREFIX}b1"


@pytest.fixture
def groups(tmp_path: Path, top: Path) -> StepGroups:
    group = BuildGroup([Place(1, str(tmp_path), ("memory", "pids"))], "b1")
    (top / "main" / "cgroup.procs").write_text(f"{os.getpid()}\n")
    return StepGroups(group, Bounds(1 << 20, 10, 0.5), jobs=2)


def test_a_step_s_process_is_put_into_a_group_with_the_bounds(groups: StepGroups, top: Path) -> None:
    assert groups.answer(GroupWanted(4, INSIDE, HERE)) == GroupReady(4, "")
    assert (top / "step-4" / "cgroup.procs").read_text() == str(os.getpid())
    assert (top / "step-4" / "pids.max").read_text() == "10"


def test_a_process_that_is_not_the_sandbox_s_is_not_moved(groups: StepGroups, top: Path) -> None:
    assert "isn't among the sandbox's" in str(groups.answer(GroupWanted(4, 1, HERE + 1)))
    assert not (top / "step-4").exists()


def test_an_executor_has_no_more_groups_than_steps_may_run(groups: StepGroups) -> None:
    for number in (1, 2):
        groups.answer(GroupWanted(number, INSIDE, HERE))
    with pytest.raises(ProtocolError, match="too many"):
        groups.answer(GroupWanted(3, INSIDE, HERE))


def test_a_step_has_one_group(groups: StepGroups) -> None:
    groups.answer(GroupWanted(1, INSIDE, HERE))
    with pytest.raises(ProtocolError, match="too many"):
        groups.answer(GroupWanted(1, INSIDE, HERE))


def test_a_step_that_is_not_known_cannot_end(groups: StepGroups) -> None:
    with pytest.raises(ProtocolError, match="no step 9"):
        groups.answer(GroupLeft(9))


def test_a_bound_that_was_met_is_told_once_and_again_at_the_end(groups: StepGroups, top: Path) -> None:
    groups.answer(GroupWanted(1, INSIDE, HERE))
    groups.answer(GroupWanted(2, INSIDE, HERE))
    (top / "step-2" / "pids.events").write_text("max 1\n")
    assert [tuple(message) for message in groups.news()] == [(2, "pids")]
    groups._next_look_s = 0.0
    assert groups.news() == []
    assert groups.answer(GroupLeft(2)) == GroupClosed(2, "pids")
    assert groups.answer(GroupLeft(1)) == GroupClosed(1, "")


def test_all_steps_at_once_and_the_executor_have_their_sum() -> None:
    assert together(Bounds(100, 10, 0.5), 3) == Bounds(300 + EXECUTOR.memory_bytes, 30 + EXECUTOR.pids, 1.5 + EXECUTOR.cpus)


def test_what_is_not_bounded_for_a_step_is_not_bounded_for_all() -> None:
    assert together(Bounds(), 3) == Bounds()


def test_the_sum_of_huge_bounds_is_a_number_that_the_kernel_takes() -> None:
    assert together(Bounds(memory_bytes=2**63 - 1), 64).memory_bytes < 2**63


def asked(groups: StepGroups) -> AskedGroups:
    """The executor's side, whose questions are answered at once."""
    frames = FrameBuffer()

    def ask(question: GroupQuestion) -> None:
        for payload in frames.feed(framed(groups.answer(question))):
            executor.hear(payload)

    executor = AskedGroups(ask)
    return executor


def test_both_sides_understand_each_other(groups: StepGroups, top: Path) -> None:
    step = asked(groups).of(5)
    step.enter(INSIDE, HERE)
    (top / "step-5" / "pids.events").write_text("max 1\n")
    assert step.met() == ""
    assert step.leave() == "pids"


def test_a_step_without_its_group_does_not_run(groups: StepGroups) -> None:
    step = asked(groups).of(5)
    with pytest.raises(IsolationError, match="can't be given its limits"):
        step.enter(1, HERE + 1)
    assert step.leave() == "", "it never entered"
