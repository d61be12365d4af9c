"""kill -9 in the middle of a RUN, whoever is hit: no process, mount or half-written blob stays, and the next build works."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.builder import Builder, kill_all, wait_until
from tests.support.mutants import make_mutant
from tests.support.profiles import runtime_or_skip
from tests.support.sandboxes import descendants

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]
BUSYBOX = Path("/usr/bin/busybox") if Path("/usr/bin/busybox").exists() else Path("/bin/busybox")
RUNTIMES = {"plain": "namespaces", "runc": "runc", "gvisor": "runsc"}
every_profile = pytest.mark.parametrize("profile", ["plain", "runc", "gvisor"])
SCRIPT = "echo begun; B=/bin/busybox; $B dd if=/dev/zero of=/big bs=1M count=8; $B sleep 300 & $B sleep 300"
DOCKERFILE = f'FROM scratch\nCOPY busybox /bin/busybox\nRUN ["/bin/busybox", "sh", "-c", "{SCRIPT}"]\n'

# The sandbox's helper is told of the launcher's end by its channel; then it ends all that it started.
DEAF = {
    "runtimes/enter.py": {
        "    poll.register(channel.fileno(), select.POLLIN)\n    while True:": "    while True:",
    },
}


def started(builder: Builder, profile: str) -> subprocess.Popen[bytes]:
    """A build whose step runs."""
    context = builder.context({"Dockerfile": DOCKERFILE, "busybox": BUSYBOX.read_bytes()})
    process = builder.popen("run", "--no-cache", "--progress", "plain", "--profile", profile, context)
    assert process.stderr is not None
    for line in process.stderr:
        if b" begun" in line and b"RUN" not in line:
            return process
    raise AssertionError(f"the step didn't begin: {process.wait()}")


def alive(pids: set[int]) -> set[int]:
    """Those that are there and no zombies, which only wait for this process."""
    found = set()
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] not in "ZX":
            found.add(pid)
    return found


def is_whole(store: Path) -> bool:
    """Every blob under its final name is what the name says."""
    return all(
        hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
        for blob in (store / "blobs" / "sha256").glob("*")
        if blob.is_file()
    )


def kill_one(builder: Builder, profile: str, choose: Callable[[int], int]) -> set[int]:
    """Kill what `choose` makes of the launcher's pid; gives all processes that the build had."""
    process = started(builder, profile)
    try:
        below = descendants(process.pid)
        assert len(below) >= 3
        os.kill(choose(process.pid), signal.SIGKILL)
        process.wait(timeout=60)
        return below
    finally:
        process.kill()
        process.communicate()


def sandbox_of(launcher: int) -> int:
    """The launcher's child that has the sandbox below it: the one with most descendants."""
    threads = Path(f"/proc/{launcher}/task").iterdir()
    children = {int(word) for thread in threads for word in (thread / "children").read_text().split()}
    return max(children, key=lambda pid: len(descendants(pid)))


def launcher_of_a_hung_executor(launcher: int) -> int:
    """Stop the executor, so that it can't end by itself."""
    for pid in descendants(launcher):
        with contextlib.suppress(OSError):  # one of the step's short processes
            if b"sandboxbuild.executor" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGSTOP)
    return launcher


VICTIMS = {"launcher": lambda pid: pid, "sandbox": sandbox_of, "launcher of a hung executor": launcher_of_a_hung_executor}


@pytest.mark.promise(10, "kill -9 leaves no process, mount or half-written blob, and the next build works")
@pytest.mark.parametrize("victim", VICTIMS)
@every_profile
def test_a_killed_build_leaves_nothing_behind(builder: Builder, profile: str, victim: str) -> None:
    runtime_or_skip(RUNTIMES[profile])
    below = kill_one(builder, profile, VICTIMS[victim])
    wait_until(lambda: not alive(below), what="the end of every process of the build")
    builder.check_nothing_is_left()
    assert is_whole(builder.store)
    if victim == "sandbox":
        (builder.folder / "context" / "Dockerfile").write_text("FROM scratch\nCOPY busybox /bin/busybox\n")
        builder.run("--profile", profile, builder.folder / "context")
        assert list((builder.store / "tmp").iterdir()) == [], "the next build clears what the killed one left"


@pytest.mark.without_defence(10, "kill -9 leaves no process, mount or half-written blob, and the next build works")
def test_a_sandbox_that_does_not_heed_its_launcher_s_end_stays(builder: Builder) -> None:
    builder.environment["PYTHONPATH"] = str(make_mutant(builder.folder, DEAF))
    below = kill_one(builder, "plain", launcher_of_a_hung_executor)
    time.sleep(1)
    left = alive(below)
    kill_all(left)
    wait_until(lambda: not alive(below), what="the end of what was killed")
    assert len(left) >= 3
