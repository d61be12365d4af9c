"""Steps that take all they can get: each ends by its limit, with an error that names it, and nothing of them is left."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from pathlib import Path

import pytest

from sandboxbuild.system import cgroups
from tests.support.builder import Builder, Done, wait_until

BUSYBOX = shutil.which("busybox")
pytestmark = [pytest.mark.root, pytest.mark.skipif(BUSYBOX is None, reason="needs busybox-static")]
LONGEST_S = 20.0  # on a busy machine; each takes about a second

MEMORY_HOG = "dd if=/dev/zero of=/dev/null bs=600M count=200"
FORK_BOMB = "bomb() { bomb | bomb & }; bomb; sleep 60"
CROWD = "n=0; while [ $n -lt 145 ]; do sleep 60 & n=$((n+1)); done; wait"
DISK_FILLER = "for n in 1 2 3 4 5 6 7 8 9; do dd if=/dev/zero of=/f$n bs=1M count=6 2>/dev/null; done; sleep 60"
DELETED = (
    'for n in 3 4 5 6 7 8 9; do eval "exec $n>/gone$n"; /bin/busybox rm /gone$n; dd if=/dev/zero bs=1M count=8 >&$n; done; '
    "sleep 60"
)
ONE_FILE = "dd if=/dev/zero of=/f bs=1M count=5000"
INODE_FILLER = "mkdir /d; n=0; while :; do : > /d/$n; n=$((n+1)); done"
BABBLER = "yes 0123456789012345678901234567890123456789 | dd bs=1M count=1000"
DEAF = "trap '' TERM INT HUP QUIT; while :; do sleep 1 & wait; done"
DAEMONS = "for n in 1 2 3; do setsid nohup sleep 4711 >/dev/null 2>&1 </dev/null & done; sleep 0.1"


@pytest.fixture(params=["cgroup", "polling"])
def held(request: pytest.FixtureRequest, builder: Builder) -> str:
    """How limits of the whole sandbox are held. Both have to do the same."""
    if request.param == "polling":
        builder.environment["SANDBOXBUILD_CGROUPS"] = "off"
    elif not cgroups.covers(cgroups.find_places(cgroups.read_hierarchies()), *cgroups.CONTROLLERS):
        pytest.skip("no cgroup can be made here")
    return str(request.param)


def arguments(builder: Builder, limits: str, command: str) -> list[str | Path]:
    """Of a build with one RUN under a policy with `limits`."""
    assert BUSYBOX is not None
    applets = " && ".join(f"/bin/busybox ln -s busybox /bin/{name}" for name in ("sh", "dd", "sleep", "yes", "setsid", "mkdir"))
    dockerfile = (
        f'FROM scratch\nCOPY busybox /bin/busybox\nSHELL ["/bin/busybox", "sh", "-c"]\nRUN {applets} '
        f"&& /bin/busybox ln -s busybox /bin/nohup\nRUN {command}\n"
    )
    context = builder.context({"Dockerfile": dockerfile, "busybox": Path(BUSYBOX).read_bytes()})
    policy = builder.folder / "policy.toml"
    policy.write_text(f"[limits]\n{limits}\n")
    return ["--no-cache", "--policy-file", policy, context]


def ended(builder: Builder, status: int, limits: str, command: str) -> Done:
    """The build fails with `status`, soon, and leaves no cgroup behind."""
    began = time.monotonic()
    done = builder.fail(status, *arguments(builder, limits, command), timeout_s=60)
    assert time.monotonic() - began < LONGEST_S
    wait_until(lambda: leftovers() == [], 5.0, what="the end of all groups that nobody holds")
    return done


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


def test_a_memory_hog_ends_by_the_memory_limit(builder: Builder, held: str) -> None:
    assert "limits.memory" in ended(builder, 102, 'memory = "300MiB"', MEMORY_HOG).last_error


def test_a_hog_that_is_forgiven_by_its_shell_ends_the_build_all_the_same(builder: Builder, held: str) -> None:
    assert "limits.memory" in ended(builder, 102, 'memory = "300MiB"', f"{MEMORY_HOG} || true").last_error


def test_too_many_processes_end_by_the_pids_limit(builder: Builder, held: str) -> None:
    assert "limits.pids" in ended(builder, 102, "pids = 150", CROWD).last_error


def test_a_fork_bomb_ends_by_the_pids_limit(builder: Builder) -> None:
    assert "limits.pids" in ended(builder, 102, "pids = 150", FORK_BOMB).last_error


def test_a_fork_bomb_is_bounded_without_a_cgroup(builder: Builder) -> None:
    builder.environment["SANDBOXBUILD_CGROUPS"] = "off"
    done = builder("run", *arguments(builder, "pids = 150", FORK_BOMB.replace("sleep 60", "exit 3")), timeout_s=60)
    assert done.status in (1, 102), "its own failure to fork, or the limit if it lasts long enough to be seen"


@pytest.mark.parametrize("filler", [DISK_FILLER, DELETED, ONE_FILE])
def test_a_disk_filler_ends_by_the_disk_limit(builder: Builder, filler: str) -> None:
    assert "limits.disk" in ended(builder, 102, 'disk = "32MiB"', filler).last_error


def test_a_cache_mount_is_no_way_round_the_disk_limit(builder: Builder) -> None:
    filler = f"--mount=type=cache,target=/cache {DISK_FILLER.replace('/f$n', '/cache/f$n')}"
    assert "limits.disk" in ended(builder, 102, 'disk = "32MiB"', filler).last_error


def test_an_inode_filler_ends_by_the_inodes_limit(builder: Builder) -> None:
    assert "limits.inodes" in ended(builder, 102, "inodes = 2000", INODE_FILLER).last_error


def test_a_gigabyte_of_output_ends_by_the_output_limit(builder: Builder) -> None:
    done = ended(builder, 102, 'output = "1MiB"', BABBLER)
    assert "limits.output" in done.last_error
    assert len(done.log) < 4 << 20


def test_a_step_that_ignores_signals_ends_by_the_step_timeout(builder: Builder) -> None:
    assert "limits.step_timeout" in ended(builder, 124, 'step_timeout = "1s"', DEAF).last_error


def test_daemons_end_with_their_step(builder: Builder) -> None:
    builder.run(*arguments(builder, "pids = 200", DAEMONS))
    assert sleepers() == []


def sleepers() -> list[str]:
    return [line for line in command_lines() if "sleep\x004711" in line]


@pytest.mark.parametrize("profile", ["runc", "gvisor"])
@pytest.mark.parametrize(
    ("limits", "command", "named"),
    [
        ('memory = "400MiB"', MEMORY_HOG, "limits.memory"),
        ("pids = 250", FORK_BOMB, "limits.pids"),
        ('disk = "32MiB"', DISK_FILLER, "limits.disk"),
    ],
)
def test_other_runtimes_hold_the_same_limits(builder: Builder, profile: str, limits: str, command: str, named: str) -> None:
    if shutil.which({"gvisor": "runsc"}.get(profile, profile)) is None:
        pytest.skip(f"{profile} is not installed")
    done = builder.fail(102, "--profile", profile, *arguments(builder, limits, command), timeout_s=90)
    assert named in done.last_error
    wait_until(lambda: leftovers() == [], 5.0, what="the end of all groups that nobody holds")


def test_the_group_of_a_killed_build_goes_with_the_next_build(builder: Builder) -> None:
    if not cgroups.covers(cgroups.find_places(cgroups.read_hierarchies()), *cgroups.CONTROLLERS):
        pytest.skip("no cgroup can be made here")
    process = builder.popen("run", *arguments(builder, "pids = 300", "sleep 60"))
    wait_until(lambda: "sleep\x0060" in " ".join(command_lines()), what="the step")
    process.kill()
    process.communicate()
    wait_until(lambda: builder.processes() == [], what="the sandbox's end")
    builder.run(*arguments(builder, "pids = 300", "sleep 0"))
    wait_until(lambda: leftovers() == [], 5.0, what="the end of all groups that nobody holds")


def command_lines() -> list[str]:
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            found.append(Path(f"/proc/{entry}/cmdline").read_text())
        except OSError:
            continue
    return found


def test_a_build_within_its_limits_succeeds(builder: Builder, held: str) -> None:
    limits = 'memory = "1GiB"\npids = 300\ndisk = "100MiB"\ninodes = 1000\noutput = "1MiB"\nopen_files = 512'
    builder.run(*arguments(builder, limits, "dd if=/dev/zero of=/f bs=1M count=20"))
    wait_until(lambda: leftovers() == [], 5.0, what="the end of all groups that nobody holds")


def test_without_a_limit_the_same_gets_through(builder: Builder) -> None:
    builder.run(*arguments(builder, 'memory = "6GiB"', "dd if=/dev/zero of=/dev/null bs=1500M count=1 && mkdir /done"))


def test_a_cpu_limit_needs_a_cgroup(builder: Builder) -> None:
    builder.environment["SANDBOXBUILD_CGROUPS"] = "off"
    error = builder.fail(4, *arguments(builder, "cpu = 0.5", "true")).last_error
    assert "limits.cpu" in error
    assert "policy.toml:2" in error


def test_a_cpu_limit_slows_a_step(builder: Builder) -> None:
    if not cgroups.covers(cgroups.find_places(cgroups.read_hierarchies()), *cgroups.CONTROLLERS):
        pytest.skip("no cgroup can be made here")
    done = builder.run(
        *arguments(builder, "cpu = 0.2", "n=0; while [ $n -lt 150000 ]; do n=$((n+1)); done; cat /proc/self/cgroup")
    )
    assert "sandboxbuild-build" not in done.log, "a step sees no more of its group than its root"
