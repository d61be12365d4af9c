"""Text to Dockerfile: stages with their instructions, read but not expanded. And triggers of ONBUILD, read the same way."""

from __future__ import annotations

from typing import NamedTuple

from sandboxbuild.dockerfile import limits
from sandboxbuild.dockerfile.directives import Directives
from sandboxbuild.dockerfile.instructions import parse_instruction
from sandboxbuild.dockerfile.instructions.base import Command
from sandboxbuild.dockerfile.instructions.stage import From
from sandboxbuild.dockerfile.instructions.variables import Arg
from sandboxbuild.dockerfile.lines import read_lines
from sandboxbuild.dockerfile.spans import Fault, Place
from sandboxbuild.errors import DockerfileError


class StageText(NamedTuple):
    """FROM and what follows it."""

    start: From
    commands: tuple[Command, ...] = ()


class Dockerfile(NamedTuple):
    """`global_args` stand before the first FROM. `gaps` are the instructions that an empty line interrupts."""

    place: Place
    directives: Directives
    global_args: tuple[Arg, ...]
    stages: tuple[StageText, ...]
    gaps: tuple[Place, ...] = ()


def parse(text: bytes, filename: str = "Dockerfile") -> Dockerfile:
    """Read a Dockerfile of any bytes. Raises DockerfileError with a span."""
    lines = read_lines(text, filename)
    _check_syntax(lines.directives.syntax, lines.place)
    global_args: list[Arg] = []
    stages: list[tuple[From, list[Command]]] = []
    for line, words in lines.lines:
        instruction = parse_instruction(line, words, lines.directives.escape)
        if isinstance(instruction, From):
            stages.append((instruction, []))
        elif stages:
            stages[-1][1].append(instruction)
        elif isinstance(instruction, Arg):
            global_args.append(instruction)
        else:
            raise line.place.error(Fault("no build stage in current context", hint="only ARG may stand before the first FROM"))
        if len(stages) > limits.STAGES:
            raise line.place.error(Fault(f"more than {limits.STAGES} stages"))
    if not stages:
        raise lines.place.error(Fault("dockerfile contains no stages to build", hint="a stage begins with FROM"))
    return Dockerfile(
        lines.place,
        lines.directives,
        tuple(global_args),
        tuple(StageText(start, tuple(commands)) for start, commands in stages),
        tuple(line.place for line, _ in lines.lines if line.gap),
    )


def _check_syntax(syntax: str, place: Place) -> None:
    """`# syntax=` names a program that reads the file. Any version of Docker's, under any registry's name, is what we are."""
    name = syntax.split(" ", 1)[0].partition("@")[0].rpartition("/")[2].partition(":")[0]
    if name and not name.startswith("dockerfile"):
        hint = "leave the line out if the file is an ordinary Dockerfile"
        raise place.error(Fault(f"the file is written for the frontend {syntax[:200]!r}", at=syntax, hint=hint))


def parse_trigger(trigger: str, place: Place) -> Command:
    """One ONBUILD trigger, as if it stood at `place`. The escape is a backslash always. Raises DockerfileError."""
    try:
        lines = read_lines(trigger.encode("utf-8", "surrogateescape"), place.file)
        if len(lines.lines) != 1:
            raise place.error(Fault("onbuild trigger should be a single expression"))
        line, words = lines.lines[0]
        instruction = parse_instruction(line._replace(place=place), words, lines.directives.escape)
    except DockerfileError as error:
        raise place.error(Fault(f"ONBUILD trigger {trigger[:200]!r}: {error.message}", hint=error.hint)) from None
    if isinstance(instruction, From):
        raise place.error(Fault(f"ONBUILD trigger {trigger[:200]!r}: FROM isn't allowed as an ONBUILD trigger"))
    return instruction
