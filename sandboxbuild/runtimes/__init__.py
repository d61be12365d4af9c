"""What hosts the executor: Runtime, SandboxSpec, Sandbox; a driver is one module."""

from __future__ import annotations

from typing import IO, NamedTuple, Protocol


class IdRange(NamedTuple):
    """Inside ids `inside`..`inside`+`length`-1 are outside ids from `outside`."""

    inside: int
    outside: int
    length: int


class SandboxMount(NamedTuple):
    """A bind mount. `idmapped` asks that owners appear as the sandbox's own (mount_setattr(2), MOUNT_ATTR_IDMAP)."""

    source: str
    target: str
    writable: bool = False
    idmapped: bool = False


class SandboxSpec(NamedTuple):
    """All that a driver needs. The sandbox's root is an empty read-only tmpfs with `mounts` on it, /proc, /dev and /tmp.

    `argv[0]` is a path inside. `environment` is complete: nothing is inherited. `network` is "none" (loopback only) or "host".
    `identity` is the inside uid and gid that the executor runs as, with all capabilities of its own user namespace.
    `scratch` is a folder of this build on the host, or "". A runtime in whose filesystem layers can't be kept as they are puts
    one of its own over it, where the sandbox has SCRATCH_PATH; others leave it alone. The sandbox's first process is put into
    the groups `cgroups` (folders) before it starts anything. `refused_calls` are system calls that nobody in the sandbox may
    make, for runtimes that filter a sandbox as a whole; to others it is nothing.
    """

    build_id: str
    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    mounts: tuple[SandboxMount, ...]
    uid_ranges: tuple[IdRange, ...]
    gid_ranges: tuple[IdRange, ...]
    identity: int
    network: str
    scratch: str
    cgroups: tuple[str, ...] = ()
    refused_calls: tuple[str, ...] = ()


class Sandbox(Protocol):
    """A started sandbox. Frames go in by `stdin` and come out by `stdout`; `stderr` is the executor's log, for developers.

    Closing `stdin` tells the executor to stop. `kill` ends every process of the sandbox at once and is idempotent.
    """

    stdin: IO[bytes]
    stdout: IO[bytes]
    stderr: IO[bytes]
    pid: int

    def wait(self, timeout_s: float | None = None) -> int:
        """The executor's exit status, 128 + n for signal n. Raises TimeoutError."""

    def kill(self) -> None: ...

    def close(self) -> None:
        """Kill what is left, reap, unmount, remove. Idempotent; never raises for what is gone already."""


class Runtime(Protocol):
    name: str

    def launch(self, spec: SandboxSpec) -> Sandbox:
        """Start the executor. Raises IsolationError that says what is missing."""
