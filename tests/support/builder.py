"""The command as a user runs it, and an outside look at what a build leaves on the machine."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

COMMAND = str(Path(sys.executable).parent / "sandboxbuild")
TIMEOUT_S = 280
SETTLE_S = 5.0


class Done(NamedTuple):
    """A finished command."""

    status: int
    out: str
    log: str

    @property
    def last_error(self) -> str:
        """The one line that begins with ERROR."""
        lines = [line for line in self.log.splitlines() if line.startswith("ERROR")]
        assert len(lines) == 1, f"{len(lines)} error lines in:\n{self.log}"
        return lines[0]


class Builder:
    """Runs the command in a folder of the test's own. `environment` is added to a small, fixed one."""

    def __init__(self, folder: Path, store: Path | None = None) -> None:
        self.folder = folder
        self.store = store or folder / "store"
        self.environment: dict[str, str] = {}

    def context(self, files: Mapping[str, str | bytes], name: str = "context") -> Path:
        """A context directory with `files`; names may have folders. Programs are executable."""
        top = self.folder / name
        top.mkdir(exist_ok=True)
        for path, content in files.items():
            target = top / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.encode() if isinstance(content, str) else content)
            target.chmod(0o755 if content[:4] == b"\x7fELF" else 0o644)
        return top

    def argv(self, *arguments: str | Path) -> list[str]:
        first, *rest = (str(argument) for argument in arguments)
        return [COMMAND, first, "--store", str(self.store), *rest]

    def popen(self, *arguments: str | Path) -> subprocess.Popen[bytes]:
        """Start the command in a session of its own."""
        return subprocess.Popen(
            self.argv(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._environment(),
            cwd=self.folder,
            start_new_session=True,
        )

    def __call__(self, *arguments: str | Path, timeout_s: float = TIMEOUT_S) -> Done:
        with self.popen(*arguments) as process:
            try:
                out, log = process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                out, log = process.communicate()
                raise AssertionError(f"no end after {timeout_s} s:\n{log.decode('utf-8', 'replace')}") from None
        return Done(process.returncode, out.decode("utf-8", "replace"), log.decode("utf-8", "replace"))

    def run(self, *arguments: str | Path, timeout_s: float = TIMEOUT_S) -> Done:
        """`sandboxbuild run --progress plain`, which must succeed."""
        done = self("run", "--progress", "plain", *arguments, timeout_s=timeout_s)
        assert done.status == 0, f"exit status {done.status}:\n{done.log}"
        return done

    def fail(self, status: int, *arguments: str | Path, timeout_s: float = TIMEOUT_S) -> Done:
        """`sandboxbuild run --progress plain`, which must end with `status`, one error line and no trace of ours."""
        done = self("run", "--progress", "plain", *arguments, timeout_s=timeout_s)
        assert done.status == status, f"exit status {done.status} instead of {status}:\n{done.log}"
        assert "Traceback" not in done.log, done.log
        assert done.last_error
        return done

    def metadata(self, *arguments: str | Path) -> dict[str, Any]:
        """Run a build and give its metadata file."""
        target = self.folder / "metadata.json"
        self.run("--metadata-file", target, *arguments)
        loaded: dict[str, Any] = json.loads(target.read_text())
        return loaded

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "PYTHONPATH") if name in os.environ}
        return {**kept, "PYTHONUNBUFFERED": "1", **self.environment}

    def processes(self) -> list[str]:
        """Processes that name this builder's store, whoever they belong to."""
        return processes_naming(str(self.store))

    def mounts(self) -> list[str]:
        """Mounts below this builder's folder, in this mount namespace."""
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return [line for line in lines if f" {self.folder}" in line]

    def check_nothing_is_left(self) -> None:
        """No process, mount, or half-written file; processes have a moment to go."""
        deadline = time.monotonic() + SETTLE_S
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert self.processes() == []
        assert self.mounts() == []

    def remove_store(self) -> None:
        shutil.rmtree(self.store, ignore_errors=True)


def processes_naming(text: str) -> list[str]:
    """Command lines and mount tables are searched: an executor sees the store as a mount whose source is below `text`."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            command = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            table = Path(f"/proc/{entry}/mountinfo").read_text()
        except OSError:
            continue
        if text in command or text in table:
            found.append(f"{entry} {command}")
    return found


def kill_all(pids: Iterable[int]) -> int:
    """SIGKILL to each; gives how many were still there: a process may end by itself, or with the one killed before it."""
    killed = 0
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            killed += 1
    return killed


def wait_until(condition: Any, timeout_s: float = 20.0, *, what: str = "the condition") -> None:
    """Poll every 20 ms; fails with `what`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {timeout_s} s"
        time.sleep(0.02)


def run_tool(*argv: str | Path, env: Mapping[str, str] | None = None, timeout_s: float = 120) -> str:
    """Run an independent judge (skopeo, umoci, runc...); gives its standard output."""
    done = subprocess.run(
        [str(part) for part in argv],
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(env or {})},
    )
    assert done.returncode == 0, f"{argv}: {done.stdout}\n{done.stderr}"
    return done.stdout


def any_of(names: Sequence[str], text: str) -> bool:
    return any(name in text for name in names)
