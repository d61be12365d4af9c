"""A plain sandbox for tests, with a busybox rootfs in its store and a small program in the executor's place."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sandboxbuild.protocol.request import STORE_PATH
from sandboxbuild.runtimes import IdRange, Runtime, Sandbox, SandboxMount, SandboxSpec
from sandboxbuild.runtimes.bundle import TARGET, Bundle, ensure_bundle
from sandboxbuild.runtimes.namespaces import NamespacesRuntime, id_ranges
from sandboxbuild.system import idmap

BUSYBOX = "/usr/bin/busybox"
_numbers = itertools.count(1)
INNER = Path(__file__).with_name("step_inner.py")
TOOLS = """sh ls cat id ps mount umount true false sleep env touch mkdir rm rmdir ln mv cp chmod chown stat echo grep
kill pwd test hostname chroot ulimit mknod dd find readlink su wc head tail od yes sort nc ip unshare printf
date df sync setsid"""


_CHOWN = """
import os
for folder, folders, names in os.walk({0!r}):
    for path in (folder, *(os.path.join(folder, name) for name in folders + names)):
        os.chown(path, 0, 0, follow_symlinks=False)
"""


class Answer:
    """What a step came to."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.fields = fields
        self.error: str = fields.get("error", "")
        self.status: int = fields.get("status", -1)
        self.output: str = base64.b64decode(fields.get("output", "")).decode(errors="replace")
        self.size: int = fields.get("size", 0)
        self.message: str = fields.get("message", "")
        self.leftover: int = fields.get("leftover", 0)
        self.ended_by: str = fields.get("ended_by", "")
        self.upper: list[str] = fields.get("upper", [])
        self.duration_ns: int = fields.get("duration_ns", 0)

    def __repr__(self) -> str:
        return f"Answer({ {**self.fields, 'output': self.output} })"


class Lab:
    """A started sandbox. `store` is its store on the host; `lower` in it is a rootfs that steps stand on."""

    def __init__(
        self,
        folder: Path,
        *,
        bundle_cache: Path | None = None,
        context: Path | None = None,
        writable_context: bool = False,
        runtime: Runtime | None = None,
        network: str = "none",
        first_id: int = idmap.ROOT_BASE,
    ) -> None:
        plan = idmap.find(first_id)
        self.uids, self.gids = id_ranges(plan)
        self.plan = plan
        self.store = folder / "store"
        self.store.mkdir()
        make_rootfs(self.store / "lower", self.uids, self.gids)
        own(self.store, self.uids, self.gids, plan.identity)
        self.bundle: Bundle = ensure_bundle(str(bundle_cache or folder.parent / "bundles"))
        mounts = [
            SandboxMount(self.bundle.path, TARGET),
            SandboxMount(str(self.store), STORE_PATH, writable=True),
            SandboxMount(str(INNER), "/sandboxbuild/inner.py"),
        ]
        if context is not None:
            idmapped = os.geteuid() == 0
            mounts.append(SandboxMount(str(context), "/sandboxbuild/contexts/default", writable_context, idmapped))
        argv = (*self.bundle.argv_prefix, "/sandboxbuild/inner.py")
        scratch = folder / "scratch"
        scratch.mkdir(mode=0o700)
        own(scratch, self.uids, self.gids, plan.identity)
        self.spec = SandboxSpec(
            f"test{os.getpid()}-{next(_numbers)}",
            argv,
            self.bundle.environment,
            tuple(mounts),
            self.uids,
            self.gids,
            plan.identity,
            network,
            str(scratch),
        )
        runtime = runtime or NamespacesRuntime()
        self.runtime = runtime.name
        self.sandbox: Sandbox = runtime.launch(self.spec)
        self._answers: dict[int, Mapping[str, Any]] = {}
        self._arrived = threading.Condition()
        self._next = 0
        self._ended = False
        threading.Thread(target=self._read, daemon=True).start()
        if os.geteuid() != 0:
            self.python(_CHOWN.format(STORE_PATH + "/lower"))

    def _read(self) -> None:
        for line in self.sandbox.stdout:
            answer = json.loads(line)
            with self._arrived:
                self._answers[answer["id"]] = answer
                self._arrived.notify_all()
        with self._arrived:
            self._ended = True
            self._arrived.notify_all()

    def start(self, **request: Any) -> int:
        self._next += 1
        self.sandbox.stdin.write(json.dumps({"id": self._next, **request}).encode() + b"\n")
        return self._next

    def wait(self, number: int, timeout_s: float = 60) -> Mapping[str, Any]:
        with self._arrived:
            if not self._arrived.wait_for(lambda: number in self._answers or self._ended, timeout_s):
                raise TimeoutError("the sandbox gave no answer")
            if number not in self._answers:
                raise EOFError(f"the sandbox ended: {self.sandbox.stderr.read().decode()}")
            return self._answers.pop(number)

    def begin(self, script: str | list[str], **spec: Any) -> int:
        argv = ["/bin/sh", "-c", script] if isinstance(script, str) else script
        where = {name: spec.pop(name) for name in ("lower", "zygote") if name in spec}
        spec.setdefault("env", [["PATH", "/bin:/usr/bin"]])
        return self.start(op="step", **where, spec={"argv": argv, **spec})

    def run(self, script: str | list[str], **spec: Any) -> Answer:
        return Answer(self.wait(self.begin(script, **spec)))

    def python(self, code: str) -> Any:
        """Run `code` as the executor; its variable `value` comes back."""
        answer = self.wait(self.start(op="python", code=code))
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["value"]

    def without(self, name: str, code: str) -> None:
        """Steps that are run with `zygote=name` come from a process that ran `code`: it may call patch(module, name, value)."""
        answer = self.wait(self.start(op="zygote", name=name, code=code))
        if "error" in answer:
            raise RuntimeError(answer["error"])

    def cancel(self, step: int) -> None:
        self.start(op="cancel", step=step)

    def new_lower(self, name: str) -> Path:
        """A copy of the rootfs for a test to spoil; `settle` it afterwards."""
        made = self.store / name
        shutil.copytree(self.store / "lower", made, symlinks=True)
        return made

    def settle(self, folder: Path) -> None:
        """Give everything below `folder` to the image's root."""
        for inner, folders, names in os.walk(folder):
            for path in (inner, *(os.path.join(inner, name) for name in folders + names)):
                own(Path(path), self.uids, self.gids, 0)

    def close(self) -> None:
        self.sandbox.close()


def own(path: Path, uids: tuple[IdRange, ...], gids: tuple[IdRange, ...], inside: int) -> None:
    """Give `path` on the host to the host id of `inside`; only root can."""
    uid, gid = (
        next(entry.outside + inside - entry.inside for entry in ranges if entry.inside <= inside < entry.inside + entry.length)
        for ranges in (uids, gids)
    )
    if os.geteuid() == 0:
        os.chown(path, uid, gid, follow_symlinks=False)


def make_rootfs(folder: Path, uids: tuple[IdRange, ...], gids: tuple[IdRange, ...]) -> None:
    """Busybox and its names; no /proc, /sys, /dev, /etc, so that each test sees what is made for it."""
    (folder / "bin").mkdir(parents=True)
    shutil.copy(BUSYBOX, folder / "bin" / "busybox")
    (folder / "bin" / "busybox").chmod(0o755)
    for name in TOOLS.split():
        (folder / "bin" / name).symlink_to("busybox")
    for inner, folders, names in os.walk(folder):
        for path in (inner, *(os.path.join(inner, name) for name in folders + names)):
            own(Path(path), uids, gids, 0)


def find_process(marker: str) -> int | None:
    """The host's pid of a process whose command line holds `marker`."""
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                command = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if marker in command and int(name) != os.getpid():
                return int(name)
    return None


def descendants(pid: int) -> set[int]:
    """Every process below `pid`, by the host's numbers."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(name))
    found: set[int] = set()
    pending = [pid]
    while pending:
        for child in children.get(pending.pop(), []):
            found.add(child)
            pending.append(child)
    return found
