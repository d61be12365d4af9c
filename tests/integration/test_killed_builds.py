"""kill -9 of launcher or executor at random moments: nothing is left, nothing half-made is believed, the next build works."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.builder import Builder, kill_all, processes_naming, run_tool, wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

BUSYBOX = Path("/usr/bin/busybox") if Path("/usr/bin/busybox").exists() else Path("/bin/busybox")
ROUNDS = 10
DOCKERFILE = """FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
ENV PATH=/bin
RUN for i in $(seq 200); do echo $i > /$i; done
RUN dd if=/dev/urandom of=/random bs=1M count=8 2>/dev/null
COPY busybox /second
RUN rm /1*; ls / > /list
"""


@pytest.fixture
def context(builder: Builder) -> Path:
    return builder.context({"busybox": BUSYBOX.read_bytes(), "Dockerfile": DOCKERFILE})


def check_store(store: Path) -> None:
    """Every blob under its final name is what the name says."""
    for blob in (store / "blobs" / "sha256").rglob("*"):
        if blob.is_file():
            with blob.open("rb") as stream:
                assert hashlib.file_digest(stream, "sha256").hexdigest() == blob.name, f"{blob} is half-written"


def executors(store: Path) -> list[int]:
    """The processes whose mount table has the store and whose command is the executor's."""
    return [int(line.split()[0]) for line in processes_naming(str(store)) if "sandboxbuild.executor" in line]


def finish(builder: Builder, context: Path) -> None:
    builder.check_nothing_is_left()
    check_store(builder.store)
    out = builder.folder / "image.tar"
    builder.run("-o", f"type=oci,dest={out}", context)
    run_tool("skopeo", "inspect", f"oci-archive:{out}")
    check_store(builder.store)
    leftovers = list((builder.store / "tmp").iterdir()) if (builder.store / "tmp").is_dir() else []
    assert leftovers == [], "the next build clears what a killed one left"


def test_a_killed_launcher_takes_everything_with_it(builder: Builder, context: Path) -> None:
    chance = random.Random(7)
    for _ in range(ROUNDS):
        with builder.popen("run", "--no-cache", "--progress", "plain", context) as process:
            time.sleep(chance.uniform(0.05, 1.2))
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
        builder.check_nothing_is_left()
    finish(builder, context)


def test_a_killed_executor_is_one_clear_error(builder: Builder, context: Path) -> None:
    chance = random.Random(11)
    killed = 0
    for _ in range(ROUNDS):
        with builder.popen("run", "--no-cache", "--progress", "plain", context) as process:
            wait_until(lambda: executors(builder.store) or process.poll() is not None, what="the executor")
            time.sleep(chance.uniform(0.0, 0.8))
            killed += kill_all(executors(builder.store))
            _, log = process.communicate(timeout=60)
        text = log.decode("utf-8", "replace")
        assert "Traceback" not in text, text
        if process.returncode:
            assert len([line for line in text.splitlines() if line.startswith("ERROR")]) == 1, text
        builder.check_nothing_is_left()
    assert killed >= ROUNDS // 2
    finish(builder, context)


def test_the_same_and_different_builds_run_side_by_side(builder: Builder, context: Path) -> None:
    def start(number: int) -> subprocess.Popen[bytes]:
        output = f"type=oci,dest={builder.folder / f'out-{number}'}"
        return builder.popen(
            "run", "--no-cache", "--build-arg", f"N={number % 2}", "--progress", "plain", "-o", output, context
        )

    processes = [start(number) for number in range(4)]
    for process in processes:
        _, log = process.communicate(timeout=200)
        assert process.returncode == 0, log.decode("utf-8", "replace")
    finish(builder, context)
