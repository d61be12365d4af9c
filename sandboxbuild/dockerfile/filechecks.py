"""Checks that look at the text as a whole: case, names of stages, descriptions, arguments that nobody declares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from sandboxbuild.dockerfile.checks import Linter
from sandboxbuild.dockerfile.expansion import Mode, expand
from sandboxbuild.dockerfile.instructions.base import Raw
from sandboxbuild.dockerfile.instructions.stage import From
from sandboxbuild.dockerfile.instructions.variables import Arg
from sandboxbuild.dockerfile.parsing import Dockerfile
from sandboxbuild.dockerfile.spans import Fault
from sandboxbuild.oci.reference import is_reference

_RESERVED: Final = ("scratch", "context")
_PROXIES: Final = frozenset(("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"))
_PREDEFINED: Final = frozenset(
    f"{prefix}{name}" for prefix in ("BUILD", "TARGET") for name in ("PLATFORM", "OS", "OSVERSION", "ARCH", "VARIANT")
) | {"TARGETSTAGE", "SOURCE_DATE_EPOCH"}


def check_file(dockerfile: Dockerfile, build_args: Mapping[str, str], lint: Linter) -> None:
    """Add what is found to `lint`."""
    lint.enter(())
    for place in dockerfile.gaps:
        lint.warn("NoEmptyContinuation", "empty continuation line", place._replace(line=place.end_line))
    _check_case(dockerfile, lint)
    _check_stage_names(dockerfile, lint)
    _check_default_images(dockerfile, lint)
    for raw in _instructions(dockerfile):
        lint.enter(raw.comments)
        if raw.keyword == "MAINTAINER":
            lint.warn("MaintainerDeprecated", "MAINTAINER is deprecated in favor of a label", raw.place, raw.written)
        _check_description(raw, lint)
    lint.enter(())
    _check_build_args(dockerfile, build_args, lint)


def _instructions(dockerfile: Dockerfile) -> Iterator[Raw]:
    yield from (arg.raw for arg in dockerfile.global_args)
    for stage in dockerfile.stages:
        yield stage.start.raw
        yield from (command.raw for command in stage.commands)


def _check_case(dockerfile: Dockerfile, lint: Linter) -> None:
    """Each instruction against the majority; BuildKit leaves global ARGs out."""
    raws = [raw for stage in dockerfile.stages for raw in (stage.start.raw, *(command.raw for command in stage.commands))]
    lower = sum(raw.written.islower() for raw in raws)
    upper = sum(raw.written.isupper() for raw in raws)
    for raw in raws:
        lint.enter(raw.comments)
        right = raw.written.lower() if lower > upper else raw.written.upper()
        if raw.written != right:
            case = "lowercase" if lower > upper else "uppercase"
            message = f"command {raw.written!r} should match the case of the command majority ({case})"
            lint.warn("ConsistentInstructionCasing", message, raw.place, raw.written)


def _check_stage_names(dockerfile: Dockerfile, lint: Linter) -> None:
    seen: set[str] = set()
    for stage in dockerfile.stages:
        start = stage.start
        place = start.raw.place
        lint.enter(start.raw.comments)
        if start.name in _RESERVED:
            message = f"stage name should not use the same name as reserved stage {start.name!r}"
            lint.warn("ReservedStageName", message, place, start.written_name)
        if start.name and start.name in seen:
            message = f"duplicate stage name {start.name!r}, stage names should be unique"
            lint.warn("DuplicateStageName", message, place, start.written_name)
        seen.add(start.name)
        if start.written_name != start.name:
            lint.warn("StageNameCasing", f"stage name {start.written_name!r} should be lowercase", place, start.written_name)
        _check_as(start, lint)


def _check_as(start: From, lint: Linter) -> None:
    written = start.raw.written
    if not start.name or not (written.islower() or written.isupper()):
        return
    word = start.raw.words[1]
    if word != ("as" if written.islower() else "AS"):
        message = f"{word!r} and {written!r} keywords' casing do not match"
        lint.warn("FromAsCasing", message, start.raw.place, word)


def _check_default_images(dockerfile: Dockerfile, lint: Linter) -> None:
    """FROM as it reads without any --build-arg; where an expansion fails, the build will say so."""
    mode = Mode(escape=dockerfile.directives.escape)
    values: dict[str, str] = dict.fromkeys(_PREDEFINED, "linux")
    try:
        for arg in dockerfile.global_args:
            for name, default in arg.pairs:
                if default is not None:
                    values[name] = expand(default, values, mode).text
        for stage in dockerfile.stages:
            if not is_reference(expand(stage.start.image, values, mode).text):
                message = f"default value for ARG {stage.start.image} results in empty or invalid base image name"
                lint.warn("InvalidDefaultArgInFrom", message, stage.start.raw.place, stage.start.image)
    except Fault:
        return


def _check_description(raw: Raw, lint: Linter) -> None:
    comments = [comment for comment in raw.comments if not comment.startswith("check=")]
    name = raw.words[0].partition("=")[0] if raw.keyword == "ARG" else raw.words[2] if len(raw.words) == 3 else ""
    if raw.keyword in ("ARG", "FROM") and comments and name and not any(line.startswith(name + " ") for line in comments):
        message = f"comment for {raw.keyword} should follow the format: `# {name} <description>`"
        lint.warn("InvalidDefinitionDescription", message, raw.place)


def _check_build_args(dockerfile: Dockerfile, build_args: Mapping[str, str], lint: Linter) -> None:
    args = [*dockerfile.global_args]
    args += [command for stage in dockerfile.stages for command in stage.commands if isinstance(command, Arg)]
    declared = {name for arg in args for name, _ in arg.pairs} | _PREDEFINED
    for name in sorted(build_args):
        known = name in declared or name.lower() in _PROXIES or name.startswith("BUILDKIT_")
        if not known:
            message = f"the build argument {name!r} is not declared by any ARG, and has no effect"
            lint.warn("UnusedBuildArg", message, dockerfile.stages[0].start.raw.place)
