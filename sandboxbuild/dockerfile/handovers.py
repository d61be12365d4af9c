"""Which secrets and ssh agents the RUNs of a Dockerfile name: what a gateway may hand over, known before any image is."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Final

from sandboxbuild.dockerfile.instructions.base import Command
from sandboxbuild.dockerfile.instructions.mounts import first_names
from sandboxbuild.dockerfile.instructions.run import Run
from sandboxbuild.dockerfile.lowering import needed_commands
from sandboxbuild.dockerfile.options import LowerOptions
from sandboxbuild.dockerfile.parsing import Dockerfile
from sandboxbuild.plan.handovers import ANY_ID, NamedRun

SECRET: Final = "secret"  # noqa: S105 - a mount's type
SSH: Final = "ssh"
_EXPANDED: Final = re.compile(r"[$\\`'\"]")


def named_runs(dockerfile: Dockerfile, options: LowerOptions) -> tuple[NamedRun, ...]:
    """One for each RUN with such mounts that the target needs, triggers of the file's own stages included.

    What ONBUILD triggers of base images name is not known here. Raises DockerfileError.
    """
    commands = needed_commands(dockerfile, options)
    return tuple(found for stage, text, command in commands for found in _named(stage, text, command))


def _named(stage: str, text: str, command: Command) -> Iterator[NamedRun]:
    if isinstance(command, Run):
        ids = [found for mount in command.mounts for found in _ids(first_names(mount))]
        secrets, agents = (tuple(dict.fromkeys(name for kind, name in ids if kind == wanted)) for wanted in (SECRET, SSH))
        if secrets or agents:
            yield NamedRun(stage, text, secrets, agents)


def _ids(fields: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(type, id) of a mount, as instructions.mounts reads them; both kinds where a variable says which it is."""
    kind = fields.get("type", "bind").lower()
    if _EXPANDED.search(kind):
        yield from ((SECRET, ANY_ID), (SSH, ANY_ID))
    elif kind == SECRET:
        target = posixpath.normpath("/" + fields.get("target", ""))
        yield SECRET, _known(fields.get("id") or fields.get("source") or posixpath.basename(target))
    elif kind == SSH:
        yield SSH, _known(fields.get("id") or "default")


def _known(text: str) -> str:
    return ANY_ID if _EXPANDED.search(text) else text
