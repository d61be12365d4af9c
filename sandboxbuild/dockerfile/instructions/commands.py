"""CMD, ENTRYPOINT and SHELL, and the two forms that they share with RUN and HEALTHCHECK."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sandboxbuild.dockerfile.gotext import plain_list, quote_list
from sandboxbuild.dockerfile.instructions.base import Lowered, Raw, read_flags
from sandboxbuild.dockerfile.spans import Fault
from sandboxbuild.oci.config import ImageConfig

if TYPE_CHECKING:
    from sandboxbuild.dockerfile.scope import Scope

DEFAULT_SHELL: Final = ("/bin/sh", "-c")


def with_shell(config: ImageConfig, command: str) -> tuple[str, ...]:
    """The shell form: SHELL, or the default, in front."""
    return (*(config.shell or DEFAULT_SHELL), command)


class Cmd(NamedTuple):
    raw: Raw
    references: tuple[str, ...] = ()

    def lower(self, scope: Scope) -> Lowered:
        argv = _argv(self.raw, scope)
        scope.config = scope.config._replace(cmd=argv or None, args_escaped=True)
        return Lowered(f"CMD {quote_list(argv)}")


class Entrypoint(NamedTuple):
    raw: Raw
    references: tuple[str, ...] = ()

    def lower(self, scope: Scope) -> Lowered:
        """A CMD that came with the base goes; one of this stage stays."""
        argv = _argv(self.raw, scope)
        cmd = scope.config.cmd if "CMD" in scope.once else None
        scope.config = scope.config._replace(entrypoint=argv or None, cmd=cmd)
        return Lowered(f"ENTRYPOINT {quote_list(argv)}")


class Shell(NamedTuple):
    raw: Raw
    references: tuple[str, ...] = ()

    def lower(self, scope: Scope) -> Lowered:
        scope.config = scope.config._replace(shell=self.raw.words)
        return Lowered(f"SHELL {plain_list(self.raw.words)}")


def _argv(raw: Raw, scope: Scope) -> tuple[str, ...]:
    scope.lint.used_once(raw.keyword, scope.once, raw.place)
    if raw.arguments.is_json:
        return raw.words
    if not scope.config.shell:
        scope.lint.json_recommended(raw.keyword, raw.place)
    return with_shell(scope.config, " ".join(raw.words))


def parse_cmd(raw: Raw) -> Cmd:
    read_flags(raw)
    return Cmd(raw)


def parse_entrypoint(raw: Raw) -> Entrypoint:
    read_flags(raw)
    return Entrypoint(raw)


def parse_shell(raw: Raw) -> Shell:
    read_flags(raw)
    if not raw.words:
        raise Fault("SHELL requires at least one argument")
    if not raw.arguments.is_json:
        raise Fault("SHELL requires the arguments to be in JSON form", hint='write SHELL ["/bin/sh", "-c"]')
    return Shell(raw)
