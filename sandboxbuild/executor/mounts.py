"""RUN --mount: each mount as an operation says it becomes a StepMount, with what has to be held while the step runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import assert_never

from sandboxbuild.errors import InputError
from sandboxbuild.executor.cachemounts import CacheMounts
from sandboxbuild.executor.channel import Vertex
from sandboxbuild.executor.copies import Copies
from sandboxbuild.executor.masking import masked_context
from sandboxbuild.executor.sources import SourceRoot, Sources
from sandboxbuild.executor.stepspec import StepMount
from sandboxbuild.plan.operations import (
    BindMount,
    CacheMount,
    ContextSource,
    CopyOp,
    FileSource,
    Mount,
    RunOp,
    SecretMount,
    SshMount,
    TmpfsMount,
)
from sandboxbuild.protocol.request import BuildRequest
from sandboxbuild.registry.uplink import Uplink, read_secret

SECRETS_FOLDER = "/run/secrets"
SCRIPT_MODE = 0o755
TMPFS_MODE = 0o1777  # tmpfs(5)'s own: any USER may write there
AGENT_VARIABLE = "SSH_AUTH_SOCK"


class RunMounts:
    """The mounts of a build's RUNs. Thread-safe."""

    def __init__(
        self, request: BuildRequest, sources: Sources, copies: Copies, caches: CacheMounts, uplink: Uplink, scratch: str
    ) -> None:
        self._request = request
        self._sources = sources
        self._copies = copies
        self._caches = caches
        self._uplink = uplink
        self._scratch = scratch
        self._secrets = frozenset(secret.secret_id for secret in request.secrets)

    def content(self, mount: Mount, vertex: Vertex) -> str:
        """What a mount brings into the step, as a digest; "" for what never enters a key (caches, secrets, tmpfs)."""
        if isinstance(mount, BindMount):
            return "".join(self._copies.content(CopyOp((mount.source,), ((mount.source_path,),), "/"), vertex))
        return ""

    def handed_over(self, op: RunOp) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The ids of the secrets and of the ssh agents that the op names and the build was given."""
        secrets = {mount.secret_id: None for mount in op.mounts if isinstance(mount, SecretMount)}
        agents = {mount.ssh_id: None for mount in op.mounts if isinstance(mount, SshMount)}
        return tuple(one for one in secrets if one in self._secrets), tuple(one for one in agents if one in self._request.ssh)

    def resolve(self, op: RunOp, stack: ExitStack, vertex: Vertex) -> tuple[tuple[StepMount, ...], tuple[tuple[str, str], ...]]:
        """The step's mounts, in the order of their making, and the secrets that come as variables. `stack` ends what they need.

        Raises InputError for a required secret that the build wasn't given.
        """
        mounts: list[StepMount] = []
        variables: list[tuple[str, str]] = []
        secrets: dict[str, bytes] = {}
        for mount in op.mounts:
            match mount:
                case BindMount():
                    mounts.append(self._bind(mount, stack, vertex))
                case CacheMount():
                    mounts.append(self._cache(mount, stack, vertex))
                case TmpfsMount():
                    mounts.append(StepMount("tmpfs", mount.target, writable=True, size_bytes=mount.size_bytes, mode=TMPFS_MODE))
                case SecretMount():
                    self._secret(mount, mounts, variables, secrets, vertex)
                case SshMount():
                    self._ssh(mount, mounts, variables, stack, vertex)
                case _:
                    assert_never(mount)
        mounts += [StepMount("file", path, content=content, mode=SCRIPT_MODE) for path, content in op.scripts]
        mounts.sort(key=lambda made: made.target.count("/"))  # what lies deeper comes later (BuildKit), else the order stays
        return tuple(mounts), tuple(variables)

    def _bind(self, mount: BindMount, stack: ExitStack, vertex: Vertex) -> StepMount:
        root = stack.enter_context(self._directory(mount.source, mount.source_path, vertex))
        return StepMount("bind", mount.target, source=root, source_path=mount.source_path, writable=mount.writable)

    @contextmanager
    def _directory(self, source: FileSource, below: str, vertex: Vertex) -> Iterator[str]:
        """The source as a directory that may be written to, for what is written there is thrown away."""
        with self._sources.root(source, vertex) as root:
            if not isinstance(source, ContextSource):
                yield root.path
                return
            with masked_context(root.path, root.ignore, below, self._scratch) as path:
                yield path

    def _cache(self, mount: CacheMount, stack: ExitStack, vertex: Vertex) -> StepMount:
        seed: SourceRoot | None = None
        path = stack.enter_context(self._caches.hold(mount))
        if mount.source is not None and not os.listdir(path):
            seed = stack.enter_context(self._sources.root(mount.source, vertex))
            self._caches.seed(path, seed.path, mount.source_path)
        return StepMount("bind", mount.target, source=path, writable=not mount.readonly)

    def _secret(
        self,
        mount: SecretMount,
        mounts: list[StepMount],
        variables: list[tuple[str, str]],
        known: dict[str, bytes],
        vertex: Vertex,
    ) -> None:
        """The gateway gives a secret once: `known` are those that this step has. A variable without one is empty (BuildKit)."""
        if mount.secret_id not in self._secrets:
            if mount.required:
                raise InputError(
                    f"secret {mount.secret_id!r} is required, and the build wasn't given it",
                    hint=f"give it with --secret id={mount.secret_id},src=FILE",
                )
            if mount.env:
                variables.append((mount.env, ""))
            return
        if mount.secret_id not in known:
            known[mount.secret_id] = read_secret(self._uplink, str(vertex.number), mount.secret_id)
        value = known[mount.secret_id]
        if mount.env:
            variables.append((mount.env, value.decode("utf-8", "surrogateescape")))
        if mount.target or not mount.env:
            target = mount.target or f"{SECRETS_FOLDER}/{mount.secret_id}"
            mounts.append(StepMount("file", target, content=value, mode=mount.mode, uid=mount.uid, gid=mount.gid))

    def _ssh(
        self,
        mount: SshMount,
        mounts: list[StepMount],
        variables: list[tuple[str, str]],
        stack: ExitStack,
        vertex: Vertex,
    ) -> None:
        """The agent's socket, and for the first one SSH_AUTH_SOCK. A mount that isn't required is none without an agent."""
        if mount.ssh_id not in self._request.ssh:
            if mount.required:
                raise InputError(
                    f"the ssh agent {mount.ssh_id!r} is required, and the build wasn't given it",
                    hint=f"give it with --ssh {mount.ssh_id}",
                )
            return
        from sandboxbuild.executor.ssh import agent_socket

        source = stack.enter_context(agent_socket(self._uplink, mount, str(vertex.number)))
        mounts.append(StepMount("bind", mount.target, source=source, writable=True))
        if all(name != AGENT_VARIABLE for name, _ in variables):
            variables.append((AGENT_VARIABLE, mount.target))
