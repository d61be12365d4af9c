"""The instructions: one module for each family with its grammar, its FLAGS table and its lowering; here is the table of all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from sandboxbuild.dockerfile.grammar import arguments_of, refuse_other_arrays
from sandboxbuild.dockerfile.instructions import (
    commands,
    copy,
    healthcheck,
    labels,
    metadata,
    onbuild,
    ports,
    run,
    stage,
    variables,
    workdir,
)
from sandboxbuild.dockerfile.instructions.base import Command, Flag, Raw
from sandboxbuild.dockerfile.instructions.stage import From
from sandboxbuild.dockerfile.lines import LogicalLine, Words
from sandboxbuild.dockerfile.spans import Fault, did_you_mean
from sandboxbuild.dockerfile.words import SPACE


class Family(NamedTuple):
    """How an instruction is read; `flags` are those that it takes, `about` a sentence for docs/dockerfile.md."""

    parse: Callable[[Raw], Command]
    about: str
    flags: tuple[Flag, ...] = ()


COMMANDS: Final[Mapping[str, Family]] = {
    "ADD": Family(copy.parse_add, "Copies files, unpacks local archives, fetches URLs and git repositories.", copy.ADD_FLAGS),
    "ARG": Family(variables.parse_arg, "Declares variables that --build-arg sets."),
    "CMD": Family(commands.parse_cmd, "Sets the default command, or the arguments of ENTRYPOINT."),
    "COPY": Family(copy.parse_copy, "Copies files from the context, a stage or an image.", copy.COPY_FLAGS),
    "ENTRYPOINT": Family(commands.parse_entrypoint, "Sets the program that a container runs."),
    "ENV": Family(variables.parse_env, "Sets variables of the image."),
    "EXPOSE": Family(ports.parse_expose, "Records ports; ranges and tcp, udp, sctp."),
    "HEALTHCHECK": Family(healthcheck.parse_healthcheck, "Records how a container is checked.", healthcheck.FLAGS),
    "LABEL": Family(labels.parse_label, "Adds labels."),
    "MAINTAINER": Family(labels.parse_maintainer, "Sets the author (deprecated; use LABEL)."),
    "ONBUILD": Family(onbuild.parse_onbuild, "Keeps an instruction for builds FROM this image."),
    "RUN": Family(run.parse_run, "Runs a command in a step of its own.", run.FLAGS),
    "SHELL": Family(commands.parse_shell, "Sets the shell of shell forms."),
    "STOPSIGNAL": Family(metadata.parse_stopsignal, "Sets the signal that stops a container."),
    "USER": Family(metadata.parse_user, "Sets user and group of what follows."),
    "VOLUME": Family(metadata.parse_volume, "Records mount points; no directory is made."),
    "WORKDIR": Family(workdir.parse_workdir, "Makes and sets the working directory."),
}
FROM_FLAGS: Final = stage.FLAGS


def read_raw(line: LogicalLine, words: Words, escape: str) -> Raw:
    """The arguments of a line that is cut up. Raises a Fault."""
    keyword = words.written.upper()
    if keyword not in COMMANDS and keyword != "FROM":
        hint = did_you_mean(keyword, (*COMMANDS, "FROM"))
        raise Fault(f"unknown instruction: {words.written[:100]}", at=words.written, hint=hint)
    refuse_other_arrays(keyword, words.rest)
    arguments = arguments_of(keyword, words.rest, escape)
    return Raw(
        keyword, words.written, words.flags, arguments, line.text.lstrip(SPACE), line.place, line.heredocs, line.comments
    )


def parse_instruction(line: LogicalLine, words: Words, escape: str) -> Command | From:
    """Raises DockerfileError."""
    try:
        raw = read_raw(line, words, escape)
        return stage.parse_from(raw) if raw.keyword == "FROM" else COMMANDS[raw.keyword].parse(raw)
    except Fault as fault:
        raise line.place.error(fault) from None
