"""Limits of one step's processes, and its end: in each profile's sandbox, and with the limit or the namespace taken out."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.support.builder import wait_until
from tests.support.profiles import runtime_or_skip
from tests.support.sandboxes import Lab, find_process

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root"), pytest.mark.timeout(180)]
OPENER = 'n=3; while [ $n -lt 60 ]; do eval "exec $n</bin/busybox" || exit 3; n=$((n+1)); done; echo opened $n'
SPINNER = "n=0; while [ $n -lt 100000000 ]; do n=$((n+1)); done"
SHORT_SPINNER = (
    "while read -r a b c d e f g h i j k l m n rest < /proc/self/stat; [ $((m + n)) -lt 150 ]; do :; done; echo spun"
)
DEAF = "trap '' TERM INT HUP QUIT; echo deaf; sleep 4; echo outlived"
SHARED_PIDS = """
from sandboxbuild.executor import zygote
from sandboxbuild.system import mounts, namespaces
patch(zygote, "_NAMESPACES", zygote._NAMESPACES & ~namespaces.NEWPID)
patch(mounts, "mount_proc", lambda place: mounts.attach(mounts.clone_tree("/proc", recursive=True), place))
patch(namespaces, "die_with_parent", lambda parent: None)
"""


@pytest.fixture(scope="module", params=["namespaces", "runc", "runsc"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    opened = Lab(tmp_path_factory.mktemp("limits"), runtime=runtime_or_skip(request.param))
    yield opened
    opened.close()


in_plain = pytest.mark.parametrize("lab", ["namespaces"], indirect=True, scope="module")


@pytest.mark.promise(9, "a process opens no more files than its limit")
def test_files_beyond_the_limit_can_not_be_opened(lab: Lab) -> None:
    answer = lab.run(OPENER, isolation={"open_files": 32})
    assert answer.status != 0
    assert "opened" not in answer.output


@pytest.mark.without_defence(9, "a process opens no more files than its limit")
@in_plain
def test_without_the_limit_as_many_are_opened(lab: Lab) -> None:
    assert "opened 60" in lab.run(OPENER).output


@pytest.mark.promise(9, "a process that spins ends by its limit of cpu time")
def test_a_spinning_process_is_killed(lab: Lab) -> None:
    answer = lab.run(SPINNER, isolation={"cpu_seconds": 1})
    assert answer.status > 128, answer


@pytest.mark.without_defence(9, "a process that spins ends by its limit of cpu time")
@in_plain
def test_without_the_limit_it_spins_on(lab: Lab) -> None:
    assert "spun" in lab.run(SHORT_SPINNER).output
    assert "spun" not in lab.run(SHORT_SPINNER, isolation={"cpu_seconds": 1}).output


@pytest.mark.promise(9, "a step that ignores signals ends by its timeout")
def test_a_deaf_step_ends_in_time(lab: Lab) -> None:
    answer = lab.run(DEAF, timeout_s=1)
    assert answer.ended_by == "timeout"
    assert "outlived" not in answer.output


@pytest.mark.without_defence(9, "a step that ignores signals ends by its timeout")
@in_plain
def test_without_a_timeout_a_deaf_step_outlives_it(lab: Lab) -> None:
    assert "outlived" in lab.run(DEAF).output


@pytest.mark.without_defence(10, "daemons end with their step")
@in_plain
def test_without_a_process_namespace_daemons_stay(lab: Lab) -> None:
    seconds = str(88_000_000 + os.getpid())
    lab.without("shared pids", SHARED_PIDS)
    lab.run(f"setsid sleep {seconds} >/dev/null 2>&1 </dev/null & sleep 0.1", zygote="shared pids")
    left = find_process(f"sleep {seconds}")
    assert left is not None
    os.kill(left, signal.SIGKILL)
    wait_until(lambda: find_process(f"sleep {seconds}") is None, what="the end of what was left")
