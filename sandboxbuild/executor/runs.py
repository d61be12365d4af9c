"""One RUN from its operation to its end: user, environment, mounts, network, and what is said when it fails."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Final

from sandboxbuild.errors import (
    BuildTimeout,
    Interrupted,
    LimitExceeded,
    PolicyError,
    RegistryError,
    SandboxbuildError,
    StepFailed,
)
from sandboxbuild.executor.channel import Vertex
from sandboxbuild.executor.listeners import NAMESERVER, RESOLV_CONF, adopt
from sandboxbuild.executor.mounts import RunMounts
from sandboxbuild.executor.network import StepNetwork
from sandboxbuild.executor.proxy import PROXY_HOST, PROXY_PORT, proxy_environment
from sandboxbuild.executor.run import Look, StepRunner
from sandboxbuild.executor.stepgroups import AskedGroups
from sandboxbuild.executor.stepspec import StepOutcome, StepSpec
from sandboxbuild.executor.tunnel import Refusal
from sandboxbuild.executor.users import ResolvedUser, resolve_user
from sandboxbuild.plan.operations import RunOp
from sandboxbuild.plan.steps import Stage, Step
from sandboxbuild.protocol.request import BuildRequest
from sandboxbuild.registry.uplink import Uplink, begin_step, end_step
from sandboxbuild.snapshotters import Workspace

if TYPE_CHECKING:
    from sandboxbuild.executor.diskuse import DiskUse

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHOWN_REFUSALS: Final = 5
_LIMITS: Final = {
    "disk": "wrote more to the disk",
    "inodes": "made more files",
    "memory": "used more memory",
    "output": "wrote more output",
    "pids": "started more processes and threads",
}
FULL_BYTES: Final = 64 * 1024  # less free space than this, and a step that fails has failed for want of it


class Runs:
    """Carries out RunOps. Thread-safe. All running steps are killed once `cancel_fd` is readable."""

    def __init__(
        self,
        request: BuildRequest,
        mounts: RunMounts,
        runner: StepRunner,
        uplink: Uplink,
        cancel_fd: int,
        groups: AskedGroups | None,
    ) -> None:
        self._request = request
        self._groups = groups
        self._mounts = mounts
        self._runner = runner
        self._uplink = uplink
        self._cancel_fd = cancel_fd

    def content(self, op: RunOp, vertex: Vertex) -> tuple[str, ...]:
        """What the op's mounts read, as digests."""
        return tuple(self._mounts.content(mount, vertex) for mount in op.mounts)

    def policy(self, op: RunOp) -> dict[str, str]:
        """What of the policy can change the result."""
        isolation = self._request.isolation
        proxied = {"proxy": "true"} if isolation.proxy else {}
        capabilities = " ".join(sorted(isolation.capabilities))
        return {"capabilities": capabilities, "network": self._network(op), "syscalls": isolation.syscalls, **proxied}

    def perform(self, op: RunOp, step: Step, stage: Stage, workspace: Workspace, vertex: Vertex) -> None:
        """Run it in the workspace. Raises StepFailed, LimitExceeded, BuildTimeout, or why it could not begin."""
        with ExitStack() as stack:
            stack.enter_context(self._announced(op, step, stage, vertex))
            spec = self._spec(op, workspace.root, stack, vertex)
            use = _disk_use(spec, workspace)
            outcome, refusals = self._run(spec, vertex, use.look if use else None)
            if use and not outcome.ended_by:
                outcome = outcome._replace(ended_by=use.exceeded())
        if outcome.status or outcome.ended_by:
            raise _failure(op, step, outcome, refusals, spec.timeout_s, is_full=is_full(workspace.root))

    def _network(self, op: RunOp) -> str:
        """The step's network: what its line says, as far as the policy lets it. Raises PolicyError."""
        isolation = self._request.isolation
        if op.network == "none":
            return "none"
        if op.network != "host" or isolation.network == "host":
            return isolation.network
        if not isolation.host_network:
            raise PolicyError(
                "RUN --network=host is not allowed by the policy",
                hint="a --policy-file with [network] host_network = true allows it",
            )
        return "host"

    def _spec(self, op: RunOp, root: str, stack: ExitStack, vertex: Vertex) -> StepSpec:
        request = self._request
        user = _user(root, op.user)
        mounts, secrets = self._mounts.resolve(op, stack, vertex)
        network = self._network(op)
        ports = request.isolation.allowed_ports
        return StepSpec(
            root=root,
            argv=op.argv,
            env=environment(op, user.home, secrets, proxied=network == "gateway" and request.isolation.proxy),
            cwd=op.cwd,
            uid=user.uid,
            gid=user.gid,
            groups=tuple(dict.fromkeys((user.gid, *user.groups))),  # the primary one too, as containerd has it
            mounts=mounts,
            add_hosts=request.add_hosts,
            resolv_conf={"gateway": RESOLV_CONF.encode(), "host": request.resolv_conf}.get(network, b""),
            network=network,
            listen=_listeners(ports) if network == "gateway" else (),
            isolation=request.isolation,
            shm_size_bytes=request.shm_size_bytes,
            ulimits=request.ulimits,
            insecure=op.security == "insecure",
            timeout_s=request.isolation.step_timeout_s,
        )

    @contextmanager
    def _announced(self, op: RunOp, step: Step, stage: Stage, vertex: Vertex) -> Iterator[None]:
        """The gateway knows of the step while the block lasts, if it is to serve it at all."""
        secrets, agents = self._mounts.handed_over(op)
        if self._network(op) != "gateway" and not secrets and not agents:
            yield
            return
        number = str(vertex.number)
        begin_step(self._uplink, number, stage.name or str(stage.number), step.text, secrets, agents)
        try:
            yield
        finally:
            with suppress(RegistryError):  # it is gone, and with it all that a step could ask for
                end_step(self._uplink, number)

    def _run(self, spec: StepSpec, vertex: Vertex, look: Look | None) -> tuple[StepOutcome, Sequence[Refusal]]:
        group = self._groups.of(vertex.number) if self._groups else None
        if spec.network != "gateway":
            return self._runner.run(spec, vertex.output, cancel_fd=self._cancel_fd, look=look, group=group), ()
        networks: list[StepNetwork] = []

        def serve(descriptors: list[int]) -> None:
            network = StepNetwork(adopt(descriptors), self._uplink, str(vertex.number))
            networks.append(network)
            network.__enter__()

        try:
            outcome = self._runner.run(
                spec, vertex.output, on_listeners=serve, cancel_fd=self._cancel_fd, look=look, group=group
            )
            return outcome, [refusal for network in networks for refusal in network.refusals]
        finally:
            for network in networks:
                network.close()


def _disk_use(spec: StepSpec, workspace: Workspace) -> DiskUse | None:
    """What the step's writing is counted by, if it is limited: its rootfs, and what it may write to beside that."""
    isolation = spec.isolation
    if not (isolation.disk_bytes or isolation.inodes):
        return None
    from sandboxbuild.executor.diskuse import DiskUse

    mounted = [mount.source for mount in spec.mounts if mount.kind == "bind" and mount.writable]
    return DiskUse(spec.root, (workspace.written, *mounted), isolation.disk_bytes, isolation.inodes)


def environment(op: RunOp, home: str, secrets: Sequence[tuple[str, str]], *, proxied: bool) -> tuple[tuple[str, str], ...]:
    """The whole environment of a step. What the image or the operator says beats what we add."""
    values = dict(proxy_environment()) if proxied else {}
    for name, value in op.env_uncached:  # proxies: programs read either case, and BuildKit sets both
        values |= {name.lower(): value, name.upper(): value}
    values |= dict(op.env)
    values.setdefault("PATH", DEFAULT_PATH)
    values.setdefault("HOME", home)
    values |= dict(secrets)
    return tuple(values.items())


def _user(root: str, text: str) -> ResolvedUser:
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return resolve_user(root_fd, text)
    finally:
        os.close(root_fd)


def _listeners(ports: Sequence[int]) -> tuple[tuple[str, str, int], ...]:
    """The sockets of a step's namespace in the order that listeners.adopt expects."""
    fixed = (("udp", NAMESERVER, 53), ("tcp", NAMESERVER, 53), ("tcp", PROXY_HOST, PROXY_PORT))
    served = (("tcp", "0.0.0.0", port) for port in ports if port != PROXY_PORT)  # noqa: S104 - in the step's namespace
    return (*fixed, *served, ("knocks", "", 0))


def is_full(path: str) -> bool:
    """Whether the filesystem at `path` has no room for another file; for an overlay, that of its upper directory."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize < FULL_BYTES or (found.f_files > 0 and found.f_favail == 0)


def _failure(
    op: RunOp, step: Step, outcome: StepOutcome, refusals: Sequence[Refusal], timeout_s: float, *, is_full: bool
) -> SandboxbuildError:
    """What a step's bad end is called, as BuildKit words it, and what would have let it go on."""
    if outcome.ended_by == "timeout":
        return BuildTimeout(f"the step took longer than {timeout_s:g} s (limits.step_timeout): {step.text}")
    if outcome.ended_by in _LIMITS:
        return LimitExceeded(
            f"the step {_LIMITS[outcome.ended_by]} than the policy allows (limits.{outcome.ended_by}): {step.text}"
        )
    if outcome.ended_by == "cancel":
        return Interrupted("the step was ended with the build", signal_number=15)
    if is_full:
        return LimitExceeded(
            f"the disk is full; exit code {outcome.status} of: {step.text}",
            hint="free space on the store's disk, or `sandboxbuild prune`",
        )
    detail = f": {outcome.message}" if outcome.message else ""
    return StepFailed(
        f'process "{shlex.join(op.argv)}" did not complete successfully: exit code: {outcome.status}{detail}',
        status=outcome.status,
        span=step.span,
        hint=refusal_hint(refusals),
    )


def refusal_hint(refusals: Sequence[Refusal]) -> str:
    """Which names and ports a step asked for in vain, and the policy line that would allow them."""
    if not refusals:
        return ""
    shown = [f"{refusal.name}:{refusal.port}" if refusal.port else refusal.name for refusal in refusals[:SHOWN_REFUSALS]]
    more = f" and {len(refusals) - SHOWN_REFUSALS} more" if len(refusals) > SHOWN_REFUSALS else ""
    first = next((refusal.hint for refusal in refusals if refusal.hint), "")
    return f"the step asked for {', '.join(shown)}{more}, which the policy doesn't allow" + (f"; {first}" if first else "")
