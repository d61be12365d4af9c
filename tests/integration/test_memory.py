"""The memory of a build doesn't depend on the size of a layer: all its processes together, while it pulls, runs and pushes.

What is bounded is resident memory with each page counted once (PSS, proc_pid_smaps(5)): the processes share one interpreter's
pages, and the sum of their RSS counts those seven times. The sum has a bound of its own, so that it is seen when it grows.

SANDBOXBUILD_TEST_LAYER_MB is the layer's size: 600 by default, 2000 for the promise's own words (that takes minutes).
SANDBOXBUILD_TEST_FIGURES is a file to which the figures are appended.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.builder import TIMEOUT_S, Builder

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

BUSYBOX = Path("/usr/bin/busybox") if Path("/usr/bin/busybox").exists() else Path("/bin/busybox")
LAYER_MB = int(os.environ.get("SANDBOXBUILD_TEST_LAYER_MB", "600"))
LIMIT_BYTES = 150 * 1000 * 1000
SUMMED_LIMIT_BYTES = 180 * 1000 * 1000
SAMPLE_S = 0.05

BASE = f"""FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "sh", "-c", "\\
    /bin/busybox dd if=/dev/urandom of=/random bs=1M count={LAYER_MB // 2} 2>/dev/null; \\
    /bin/busybox dd if=/dev/zero of=/zero bs=1M count={LAYER_MB // 2} 2>/dev/null"]
"""
CHILD = """FROM {base}
RUN ["/bin/busybox", "sh", "-c", "/bin/busybox cat /zero /random > /both"]
"""


class Process(NamedTuple):
    """One process at one moment."""

    name: str
    rss: int
    pss: int


class Sampler:
    """Looks at a process and all that descend from it, until it ends. The maxima are of sums over all processes."""

    def __init__(self, pid: int) -> None:
        self.rss = self.pss = self.samples = 0
        self.at_peak: list[Process] = []
        self._pid = pid
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def report(self) -> str:
        shown = ", ".join(f"{process.name} {process.pss / 1e6:.0f} ({process.rss / 1e6:.0f})" for process in self.at_peak)
        figures = f"PSS {self.pss / 1e6:.0f} MB, sum of RSS {self.rss / 1e6:.0f} MB, {self.samples} samples"
        return f"{figures}; PSS (RSS) at the peak: {shown}"

    def _watch(self) -> None:
        while (found := self._look()) is not None:
            self.samples += 1
            rss, pss = sum(process.rss for process in found), sum(process.pss for process in found)
            if pss > self.pss:
                self.at_peak = found
            self.rss, self.pss = max(self.rss, rss), max(self.pss, pss)
            time.sleep(SAMPLE_S)

    def _look(self) -> list[Process] | None:
        parents = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    parents[int(entry)] = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
                except OSError:
                    continue
        family = {self._pid}
        for pid in sorted(parents):  # children are younger than their parents
            if parents[pid] in family:
                family.add(pid)
        found = [process for process in map(_process, sorted(family)) if process is not None]
        return found if any(process.rss for process in found) else None


def _process(pid: int) -> Process | None:
    try:
        rows = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return None
    name = next((word for word in arguments if "sandboxbuild." in word), arguments[0])
    return Process(name[-40:], *(int(rows[key].split()[0]) * 1024 for key in ("Rss", "Pss")))


def measured(builder: Builder, what: str, *arguments: str | Path) -> Sampler:
    """Run a build to its good end."""
    with (builder.folder / "log").open("wb") as log:
        process = subprocess.Popen(
            builder.argv("run", "--progress", "plain", *arguments),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=builder.folder,
        )
        sampler = Sampler(process.pid)
        status = process.wait(TIMEOUT_S * 3)
    sampler.join()
    assert status == 0, (builder.folder / "log").read_text()
    figures = os.environ.get("SANDBOXBUILD_TEST_FIGURES")
    if figures:
        with open(figures, "a") as stream:
            stream.write(f"{what}, a layer of {LAYER_MB} MB: {sampler.report()}\n")
    return sampler


def check(sampler: Sampler) -> None:
    assert sampler.samples > 10
    assert sampler.pss < LIMIT_BYTES, sampler.report()
    assert sampler.rss < SUMMED_LIMIT_BYTES, sampler.report()


def test_large_layers_are_made_pushed_and_pulled_in_little_memory(builder: Builder, registry: str, tmp_path: Path) -> None:
    base, child = f"{registry}/large/base:1", f"{registry}/large/child:1"
    # The first build on a host tries once what the runtime claims, among it whether 64 MB and ten processes are seen.
    builder.run(builder.context({"Dockerfile": "FROM scratch\nLABEL a=b\n"}, "first"))
    context = builder.context({"busybox": BUSYBOX.read_bytes(), "Dockerfile": BASE})
    made = measured(builder, "made and pushed", "-t", base, "--push", context)
    builder.remove_store()
    context = builder.context({"Dockerfile": CHILD.format(base=base)}, "child")
    output = f"type=oci,dest={tmp_path / 'child.tar'}"
    pulled = measured(builder, "pulled, read and pushed", "-t", child, "--push", "-o", output, context)
    check(made)
    check(pulled)
