"""How long a build takes to its first step, and a step to its program: `python -m tests.bench.startup [ROUNDS]`. Writes JSON.

In each profile: milliseconds from the runtime's start to a made sandbox, from there to the first step, and from a step's start
to the first word of its program. The least of all rounds counts, since other work on the machine only adds. Needs root and
busybox.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sandboxbuild.launcher.build import build
from sandboxbuild.launcher.settings import BuildSettings
from sandboxbuild.protocol.events import Event, LogOutput, VertexStarted
from sandboxbuild.runtimes import SandboxSpec
from sandboxbuild.runtimes.namespaces import NamespacesRuntime
from sandboxbuild.runtimes.ocicli import OciRuntime

PROFILES = ("plain", "runc", "gvisor")
DOCKERFILE = 'FROM scratch\nCOPY busybox /bin/busybox\nARG TURN\nRUN ["/bin/busybox", "echo", "first"]\n' + "".join(
    f'RUN ["/bin/busybox", "echo", "{number}"]\n' for number in range(3)
)


class Times:
    """Wall-clock times in ns of one build."""

    def __init__(self) -> None:
        self.launched = self.made = 0
        self.steps: list[int] = []
        self.words: list[int] = []

    def observe(self, event: Event | None) -> None:
        if isinstance(event, VertexStarted) and "echo" in event.name:
            self.steps.append(event.time_ns)
        elif isinstance(event, LogOutput):
            self.words.append(event.time_ns)

    def around(self, launch: Callable[..., Any]) -> Callable[..., Any]:
        def timed(runtime: Any, spec: SandboxSpec) -> Any:
            self.launched = time.time_ns()
            sandbox = launch(runtime, spec)
            self.made = time.time_ns()
            return sandbox

        return timed

    def milliseconds(self) -> dict[str, float]:
        setups = [word - step for step, word in zip(self.steps, self.words, strict=True)]
        found = {
            "sandbox": self.made - self.launched,
            "to_first_step": self.steps[0] - self.made,
            "first_step_s_setup": setups[0],
            "later_step_s_setup": min(setups[1:]),
        }
        return {name: round(value / 1e6, 1) for name, value in found.items()}


def one_build(context: Path, store: Path, profile: str, turn: int) -> dict[str, float]:
    """Of a build whose COPY is cached and whose steps are not."""
    times = Times()
    before = NamespacesRuntime.launch, OciRuntime.launch
    NamespacesRuntime.launch, OciRuntime.launch = (times.around(launch) for launch in before)  # type: ignore[method-assign]
    try:
        build(settings(context, store, profile, turn), times.observe)
    finally:
        NamespacesRuntime.launch, OciRuntime.launch = before  # type: ignore[method-assign]
    return times.milliseconds()


def settings(context: Path, store: Path, profile: str, turn: int) -> BuildSettings:
    return BuildSettings(context=str(context), store=str(store), profile=profile, build_args=(("TURN", str(turn)),))


def main(rounds: int) -> None:
    found: dict[str, Any] = {"load": os.getloadavg()[0], "rounds": rounds}
    with tempfile.TemporaryDirectory() as name:
        context = Path(name, "context")
        context.mkdir()
        (context / "busybox").write_bytes(Path("/usr/bin/busybox").read_bytes())
        (context / "busybox").chmod(0o755)
        (context / "Dockerfile").write_text(DOCKERFILE)
        for profile in PROFILES:
            one_build(context, Path(name, profile), profile, 0)
            each = [one_build(context, Path(name, profile), profile, turn) for turn in range(1, rounds + 1)]
            found[profile] = {key: min(times[key] for times in each) for key in each[0]}
    json.dump(found, sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
