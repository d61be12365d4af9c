"""Steps that take all they can get: each ends by its limit, with an error that names it, and nothing of them is left."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from sandboxbuild.system import cgroups
from tests.support.builder import Builder, Done, wait_until

BUSYBOX = shutil.which("busybox")
pytestmark = [pytest.mark.root, pytest.mark.skipif(BUSYBOX is None, reason="needs busybox-static")]
LONGEST_S = 60.0  # on a busy machine; each takes about a second, and what they try would take minutes or for ever

MEMORY_HOG = "dd if=/dev/zero of=/dev/null bs=600M count=200"
FORK_BOMB = "bomb() { bomb | bomb & }; bomb; sleep 300"
CROWD = "n=0; while [ $n -lt 148 ]; do sleep 300 & n=$((n+1)); done; wait"
DISK_FILLER = "for n in 1 2 3 4 5 6 7 8 9; do dd if=/dev/zero of=/f$n bs=1M count=6 2>/dev/null; done; sleep 300"
DELETED = (
    'for n in 3 4 5 6 7 8 9; do eval "exec $n>/gone$n"; /bin/busybox rm /gone$n; dd if=/dev/zero bs=1M count=8 >&$n; done; '
    "sleep 300"
)
ONE_FILE = "dd if=/dev/zero of=/f bs=1M count=5000"
INODE_FILLER = "mkdir /d; n=0; while :; do : > /d/$n; n=$((n+1)); done"
BABBLER = "yes 0123456789012345678901234567890123456789 | dd bs=1M count=10000"
DEAF = "trap '' TERM INT HUP QUIT; while :; do sleep 1 & wait; done"
DAEMONS = "for n in 1 2 3; do setsid nohup sleep {0} >/dev/null 2>&1 </dev/null & done; sleep 0.1"


@pytest.fixture(params=["plain", "runc", "gvisor"])
def profile(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if shutil.which({"gvisor": "runsc", "plain": "true"}.get(name, name)) is None:
        pytest.skip(f"{name} is not installed")
    return name


@pytest.fixture(params=["cgroup", "polling"])
def held(request: pytest.FixtureRequest, builder: Builder) -> str:
    """How limits of the whole sandbox are held. Both have to do the same."""
    if request.param == "polling":
        builder.environment["SANDBOXBUILD_CGROUPS"] = "off"
    else:
        needs_cgroups()
    return str(request.param)


def needs_cgroups() -> None:
    if not cgroups.covers(cgroups.find_places(cgroups.read_hierarchies()), *cgroups.CONTROLLERS):
        pytest.skip("no cgroup can be made here")


def arguments(builder: Builder, limits: str, command: str, stages: str = "") -> list[str | Path]:
    """Of a build with one RUN under a policy with `limits`."""
    assert BUSYBOX is not None
    applets = " && ".join(f"/bin/busybox ln -s busybox /bin/{name}" for name in ("sh", "dd", "sleep", "yes", "setsid", "mkdir"))
    dockerfile = (
        f'FROM scratch AS base\nCOPY busybox /bin/busybox\nSHELL ["/bin/busybox", "sh", "-c"]\nRUN {applets} '
        f"&& /bin/busybox ln -s busybox /bin/nohup\n{stages}FROM base\nRUN {command}\n"
    )
    context = builder.context({"Dockerfile": dockerfile, "busybox": Path(BUSYBOX).read_bytes()})
    policy = builder.folder / "policy.toml"
    policy.write_text(f"[limits]\n{limits}\n")
    return ["--no-cache", "--policy-file", policy, context]


def ended(builder: Builder, status: int, limits: str, command: str, *options: str) -> Done:
    """The build fails with `status`, soon, and leaves no cgroup behind."""
    began = time.monotonic()
    done = builder.fail(status, *options, *arguments(builder, limits, command), timeout_s=2 * LONGEST_S)
    assert time.monotonic() - began < LONGEST_S
    check_no_group_is_left()
    return done


def check_no_group_is_left() -> None:
    wait_until(lambda: leftovers() == [], 5.0, what="the end of all groups that nobody holds")


def leftovers() -> list[str]:
    """Groups of builds that no launcher holds."""
    places = cgroups.find_places(cgroups.read_hierarchies())
    found = [
        f"{place.folder}/{name}" for place in places for name in os.listdir(place.folder) if name.startswith(cgroups.PREFIX)
    ]
    return [folder for folder in found if is_free(folder)]


def is_free(folder: str) -> bool:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return os.path.exists(folder)


@pytest.mark.promise(9, "a step that takes all of a resource ends by its limit")
@pytest.mark.parametrize(
    ("limits", "command", "named"),
    [
        ('memory = "400MiB"', MEMORY_HOG, "limits.memory"),
        ("pids = 250", FORK_BOMB, "limits.pids"),
        ('disk = "32MiB"', DISK_FILLER, "limits.disk"),
        ("inodes = 2000", INODE_FILLER, "limits.inodes"),
        ('output = "1MiB"', BABBLER, "limits.output"),
    ],
    ids=["memory", "forks", "disk", "inodes", "output"],
)
def test_a_step_that_takes_all_it_can_ends_by_its_limit(
    builder: Builder, profile: str, limits: str, command: str, named: str
) -> None:
    done = ended(builder, 102, limits, command, "--profile", profile)
    assert named in done.last_error
    assert len(done.log) < 4 << 20


@pytest.mark.promise(9, "a step that ignores signals ends by its timeout")
def test_a_step_that_ignores_signals_ends_by_the_step_timeout(builder: Builder, profile: str) -> None:
    done = ended(builder, 124, 'step_timeout = "1s"', DEAF, "--profile", profile)
    assert "limits.step_timeout" in done.last_error


@pytest.mark.promise(10, "daemons end with their step")
def test_daemons_end_with_their_step(builder: Builder, profile: str) -> None:
    seconds = str(4_711_000 + os.getpid())
    builder.run("--profile", profile, *arguments(builder, "pids = 250", DAEMONS.format(seconds)))
    assert [line for line in command_lines() if f"sleep\\0{seconds}" in line] == []


@pytest.mark.without_defence(9, "a step that takes all of a resource ends by its limit")
def test_without_limits_the_same_gets_through(builder: Builder) -> None:
    """As much as the limits above end, of each."""
    crowd = CROWD.replace("; wait", "").replace("sleep 300", "sleep 3").replace("148", "300")
    filler = DISK_FILLER.replace("; sleep 300", "")
    inodes = INODE_FILLER.replace("while :", "while [ $n -lt 3000 ]")
    babbler = BABBLER.replace("10000", "2")
    hog = MEMORY_HOG.replace("count=200", "count=1")
    builder.run(*arguments(builder, 'memory = "6GiB"', f"{hog} && {crowd}; {filler} && {inodes} && {babbler} && mkdir /done"))


def test_a_hog_that_is_forgiven_by_its_shell_ends_the_build_all_the_same(builder: Builder, held: str) -> None:
    assert "limits.memory" in ended(builder, 102, 'memory = "300MiB"', f"{MEMORY_HOG} || true").last_error


def test_too_many_processes_end_by_the_pids_limit(builder: Builder, held: str) -> None:
    assert "limits.pids" in ended(builder, 102, "pids = 150", CROWD).last_error


def test_a_fork_bomb_is_bounded_without_a_cgroup(builder: Builder) -> None:
    builder.environment["SANDBOXBUILD_CGROUPS"] = "off"
    done = builder("run", *arguments(builder, "pids = 150", FORK_BOMB.replace("sleep 300", "exit 3")), timeout_s=60)
    assert done.status in (1, 102), "its own failure to fork, or the limit if it lasts long enough to be seen"


@pytest.mark.parametrize("filler", [DELETED, ONE_FILE], ids=["deleted", "one_file"])
def test_a_disk_filler_ends_by_the_disk_limit(builder: Builder, filler: str) -> None:
    assert "limits.disk" in ended(builder, 102, 'disk = "32MiB"', filler).last_error


def test_a_cache_mount_is_no_way_round_the_disk_limit(builder: Builder) -> None:
    filler = f"--mount=type=cache,target=/cache {DISK_FILLER.replace('/f$n', '/cache/f$n')}"
    assert "limits.disk" in ended(builder, 102, 'disk = "32MiB"', filler).last_error


DEEP = """
#include <sys/stat.h>
#include <unistd.h>
int main(void) {
    for (int n = 0; n < 6000; n++)
        if (mkdir("d", 0755) || chdir("d")) return 9;
    return 0;
}
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_directories_deeper_than_anybody_walks_are_an_error_and_go_with_the_build(builder: Builder) -> None:
    source = builder.folder / "deep.c"
    source.write_text(DEEP)
    subprocess.run(["gcc", "-static", "-o", str(builder.folder / "deep"), str(source)], check=True)
    program = (builder.folder / "deep").read_bytes()
    context = builder.context({"Dockerfile": 'FROM scratch\nCOPY deep /deep\nRUN ["/deep"]\n', "deep": program})
    assert "directories nest deeper" in builder.fail(102, "--no-cache", context).last_error
    assert os.listdir(builder.store / "tmp") == []


def test_the_group_of_a_killed_build_goes_with_the_next_build(builder: Builder) -> None:
    needs_cgroups()
    seconds = str(600_000 + os.getpid())
    process = builder.popen("run", *arguments(builder, "pids = 300", f"sleep {seconds}"))
    wait_until(lambda: f"sleep\0{seconds}" in " ".join(command_lines()), what="the step")
    process.kill()
    process.communicate()
    wait_until(lambda: builder.processes() == [], what="the sandbox's end")
    builder.run(*arguments(builder, "pids = 300", "sleep 0"))
    check_no_group_is_left()


def command_lines() -> list[str]:
    return list(processes().values())


def processes() -> dict[int, str]:
    """Command lines by pid."""
    found = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            found[int(entry)] = Path(f"/proc/{entry}/cmdline").read_text()
        except OSError:
            continue
    return found


def test_a_build_within_its_limits_succeeds(builder: Builder, held: str) -> None:
    limits = 'memory = "1GiB"\npids = 300\ndisk = "100MiB"\ninodes = 1000\noutput = "1MiB"\nopen_files = 512'
    builder.run(*arguments(builder, limits, "dd if=/dev/zero of=/f bs=1M count=20"))
    check_no_group_is_left()


@pytest.mark.parametrize("profile", ["plain", "runc"], indirect=True)
def test_steps_that_run_at_once_are_each_in_a_group_of_their_own(builder: Builder, profile: str) -> None:
    """Two of them use more than one may, and neither the other nor the executor counts."""
    needs_cgroups()
    seconds = str(800_000 + os.getpid())
    crowd = f"n=0; while [ $n -lt 100 ]; do sleep {seconds} & n=$((n+1)); done; wait"
    stages = f"FROM base AS one\nRUN {crowd}\nFROM base AS two\nRUN {crowd}\n"
    options = arguments(builder, "pids = 150", "--mount=from=one,target=/1 --mount=from=two,target=/2 true", stages)
    process = builder.popen("run", "--jobs", "2", "--profile", profile, *options)
    try:
        wait_until(lambda: len(sleepers(seconds)) == 200, what="both steps")
        assert sorted(len(members) for members in groups_of(sleepers(seconds)).values()) == [100, 100]
    finally:
        process.kill()
        process.communicate()
    wait_until(lambda: sleepers(seconds) == [], what="the end of the steps")


def sleepers(seconds: str) -> list[int]:
    return [pid for pid, line in processes().items() if f"sleep\0{seconds}" in line]


def groups_of(pids: list[int]) -> dict[str, list[int]]:
    """By the line of /proc/PID/cgroup that has the controller of pids."""
    found: dict[str, list[int]] = {}
    for pid in pids:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        line = next((line for line in lines if ":pids:" in line), lines[-1])
        found.setdefault(line, []).append(pid)
    return found


def test_a_cpu_limit_needs_a_cgroup(builder: Builder) -> None:
    builder.environment["SANDBOXBUILD_CGROUPS"] = "off"
    error = builder.fail(4, *arguments(builder, "cpu = 0.5", "true")).last_error
    assert "limits.cpu" in error
    assert "policy.toml:2" in error


def test_a_cpu_limit_slows_a_step(builder: Builder, profile: str) -> None:
    needs_cgroups()
    before = throttled()
    process = builder.popen("run", "--profile", profile, *arguments(builder, "cpu = 0.2", "while :; do :; done"))
    try:
        wait_until(lambda: throttled() - before != set(), 60.0, what="a group that was made to wait")
    finally:
        process.kill()
        process.communicate()


def throttled() -> set[str]:
    """Groups of builds whose processes had to wait for their next share."""
    found = set()
    for place in cgroups.find_places(cgroups.read_hierarchies()):
        builds = [name for name in os.listdir(place.folder) if name.startswith(cgroups.PREFIX)]
        for group in [path for name in builds for path in (f"{place.folder}/{name}", *cgroups.below(f"{place.folder}/{name}"))]:
            counted = dict(line.split(" ") for line in cgroups.read(f"{group}/cpu.stat").splitlines())
            if int(counted.get("nr_throttled", "0")):
                found.add(group)
    return found
