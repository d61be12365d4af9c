"""One RUN as plain values: what the executor tells the process that becomes it."""

from __future__ import annotations

from typing import Any, NamedTuple

from sandboxbuild.protocol.request import StepIsolation

STAND_IN_ADDRESS = ("198.18.0.1", 15)  # on the step's loopback, it makes all of 198.18.0.0/15 local


class StepMount(NamedTuple):
    """One mount of a step. `target` is an absolute path in the rootfs, links are followed inside it; what is missing is made
    for the time of the step.

    kind "bind": `source` is a path of ours, and `source_path` below it, if any, is an image's word: resolved inside `source`.
    kind "tmpfs": at most `size_bytes`, with `mode` and owner. kind "file": a file with `content`, `mode` and owner.
    What is written to a tmpfs or file is gone with the step; `writable` False makes any of them read-only.
    """

    kind: str
    target: str
    source: str = ""
    source_path: str = ""
    writable: bool = False
    size_bytes: int = 0
    content: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0


class StepSpec(NamedTuple):
    """One RUN. `root` is where the workspace's merged tree lies; `env` is the whole environment.

    `network` is "none", "host" (the executor's) or "gateway": a namespace with loopback and STAND_IN_ADDRESS, in which the
    sockets of `listen`, (tcp or udp, IPv4 address, port) or ("knocks", "", 0), are opened before the program starts.
    `resolv_conf` None leaves the image's file. `insecure` unmasks /proc and /sys. `timeout_s` 0 is none.
    """

    root: str
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    cwd: str = "/"
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    mounts: tuple[StepMount, ...] = ()
    hostname: str = "sandboxbuild"
    add_hosts: tuple[tuple[str, str], ...] = ()  # name, address
    resolv_conf: bytes | None = None
    network: str = "none"
    listen: tuple[tuple[str, str, int], ...] = ()
    isolation: StepIsolation = StepIsolation()
    shm_size_bytes: int = 64 << 20
    ulimits: tuple[tuple[str, int, int], ...] = ()
    insecure: bool = False
    timeout_s: float = 0.0


class StepOutcome(NamedTuple):
    """`status` is the exit status, 128 + n for signal n, 126 or 127 where the program can't be started, and `message` says why.

    `leftover` counts processes that outlived the program and were killed. `ended_by` is "" for the step itself, else
    "timeout", "cancel", or the limit that made us kill it: "output", "disk", "inodes", "memory", "pids".
    """

    status: int
    duration_ns: int
    leftover: int = 0
    message: str = ""
    ended_by: str = ""


class Stub(NamedTuple):
    """A mount point that had to be made in the rootfs: enough to know later whether it is still only that."""

    name: bytes
    is_directory: bool
    inode: int
    changed_ns: int  # its mtime
    parent_before_ns: int  # the parent's mtime before and after it was made
    parent_after_ns: int


def to_message(spec: StepSpec) -> dict[str, Any]:
    """`spec` as builtin types for a channel."""
    message = spec._asdict()
    message["mounts"] = [tuple(mount) for mount in spec.mounts]
    message["isolation"] = tuple(spec.isolation)
    return message


def from_message(message: dict[str, Any]) -> StepSpec:
    mounts = tuple(StepMount(*mount) for mount in message["mounts"])
    return StepSpec(**{**message, "mounts": mounts, "isolation": StepIsolation(*message["isolation"])})
