"""RUN."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sandboxbuild.dockerfile import limits
from sandboxbuild.dockerfile.heredocs import is_mark
from sandboxbuild.dockerfile.instructions.base import LIST, TEXT, Flag, Lowered, Raw, no_nul, read_flags
from sandboxbuild.dockerfile.instructions.commands import with_shell
from sandboxbuild.dockerfile.instructions.mounts import MountText, lower_mount, read_mount, stages_of
from sandboxbuild.dockerfile.spans import Fault
from sandboxbuild.dockerfile.words import check_text
from sandboxbuild.plan.operations import Mount, RunOp, SshMount

if TYPE_CHECKING:
    from sandboxbuild.dockerfile.scope import Scope

FLAGS: Final = (
    Flag("mount", LIST, "Files that the step sees and the image doesn't keep: bind, cache, tmpfs, secret, ssh."),
    Flag("network", TEXT, "default, none or host; policy decides."),
    Flag("security", TEXT, "sandbox. insecure is always refused: a step has no way out of its sandbox."),
    Flag("device", LIST, "Always refused: no device of the host is given to a step."),
)
_SCRIPTS: Final = "/dev/pipes/"


class _Text(NamedTuple):
    """`words` are the command's, before SHELL; `scripts` what is executed by its `#!`."""

    words: tuple[str, ...]
    scripts: tuple[tuple[str, bytes], ...] = ()


class Run(NamedTuple):
    raw: Raw
    mounts: tuple[MountText, ...]
    network: str
    security: str

    @property
    def references(self) -> tuple[str, ...]:
        return tuple(mount.reference for mount in self.mounts if mount.reference)

    def lower(self, scope: Scope) -> Lowered:
        text = _command(self.raw)
        argv = text.words if self.raw.arguments.is_json else with_shell(scope.config, " ".join(text.words))
        if not argv:
            raise Fault("RUN [] has no command")
        no_nul(argv, "a command")
        mounts = self._mounts(scope)
        op = RunOp(
            argv=argv,
            env=scope.environment,
            cwd=scope.workdir,
            user=scope.config.user,
            env_uncached=scope.shared.proxies,
            scripts=text.scripts,
            mounts=mounts,
            network=self.network or "default",
            security=self.security or "sandbox",
        )
        return Lowered(f"RUN {_with_arguments(scope, argv)} # buildkit", op, stages_of(mounts))

    def _mounts(self, scope: Scope) -> tuple[Mount, ...]:
        found: list[Mount] = []
        for mount in self.mounts:
            found.append(lower_mount(mount, scope, sum(isinstance(other, SshMount) for other in found)))
        return tuple(found)


def _command(raw: Raw) -> _Text:
    """The words of the command. A here-document alone is the script itself; one with a command is left to the shell."""
    if not raw.heredocs:
        return _Text(raw.words)
    for heredoc in raw.heredocs:
        check_text(heredoc.content)
    line = raw.words[0]
    if not is_mark(line):
        documents = "".join(f"\n{heredoc.content}{heredoc.name}" for heredoc in raw.heredocs)
        return _Text((line + documents,))
    first = raw.heredocs[0]
    if not first.text.startswith("#!"):
        return _Text((first.text,))
    if "/" in first.name or first.name in (".", ".."):
        raise Fault(f"the here-document's name {first.name[:100]!r} is no file name", at=first.name)
    path = _SCRIPTS + first.name
    return _Text((path,), ((path, first.text.encode("utf-8")),))


def _with_arguments(scope: Scope, argv: tuple[str, ...]) -> str:
    """`|2 A=1 B= /bin/sh -c ...`: the declared ARGs with their values in front."""
    values = {name: scope.env.get(name, value or "") for name, value in scope.declared}
    front = [f"|{len(values)}", *(f"{name}={value}" for name, value in values.items())] if values else []
    return " ".join((*front, *argv))


def parse_run(raw: Raw) -> Run:
    flags = read_flags(raw, FLAGS)
    if flags.list("device"):
        raise Fault("RUN --device is not allowed", at="--device", hint="no device of the host is given to a step")
    network, security = flags.text("network"), flags.text("security")
    if network not in ("", "default", "none", "host"):
        raise Fault(f"invalid network mode {network[:100]!r}", at=network, hint="it is default, none or host")
    if security not in ("", "sandbox", "insecure"):
        raise Fault(f"security {security[:100]!r} is not valid", at=security, hint="it is sandbox")
    if security == "insecure":
        raise Fault("RUN --security=insecure is not allowed", at="--security", hint="a step has no way out of its sandbox")
    if len(flags.list("mount")) > limits.MOUNTS:
        raise Fault(f"more than {limits.MOUNTS} mounts in one RUN", at="--mount")
    return Run(raw, tuple(read_mount(mount) for mount in flags.list("mount")), network, security)
