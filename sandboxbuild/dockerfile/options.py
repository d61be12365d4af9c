"""LowerOptions: what a build says beside its Dockerfile. And what follows from it alone: global arguments and platforms."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from sandboxbuild.dockerfile.expansion import Mode, expand
from sandboxbuild.dockerfile.ignore import IgnoreRules
from sandboxbuild.dockerfile.limits import Budget
from sandboxbuild.dockerfile.parsing import Dockerfile
from sandboxbuild.dockerfile.spans import Fault
from sandboxbuild.errors import UsageError
from sandboxbuild.oci.config import ImageConfig
from sandboxbuild.oci.platform import Platform, parse_platform
from sandboxbuild.plan.steps import BaseImage

Resolve = Callable[[BaseImage], ImageConfig]
EPOCH: Final = "SOURCE_DATE_EPOCH"
_INTEGER: Final = r"[+-]?[0-9]{1,18}"


class LowerOptions(NamedTuple):
    """`platform` is what is built for, "" where nobody said: then it is `build_platform`, and images keep their own.

    `named_contexts` are (name, where): "docker-image://REF" and "oci-layout://..." are images, all else trees. `checks`
    takes the place of the file's own `# check=`. `ignore` is what the context's ignore file leaves out, where that is known.
    With `all_stages` stages that the target doesn't need are lowered, too.
    """

    target: str = ""
    build_args: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    platform: str = ""
    build_platform: str = "linux/amd64"
    source_date_epoch: int | None = None
    named_contexts: tuple[tuple[str, str], ...] = ()
    checks: str | None = None
    ignore: IgnoreRules | None = None
    all_stages: bool = False


class Settings(NamedTuple):
    """The options, read. `target_platform` is always said, `explicit_platform` only if somebody did."""

    build_args: Mapping[str, str]
    global_args: Mapping[str, str]
    declared_globally: frozenset[str]
    target_platform: Platform
    explicit_platform: Platform | None
    source_date_epoch: int | None


def read_platform(text: str) -> Platform:
    """Raises a Fault."""
    try:
        return parse_platform(text)
    except UsageError as error:
        raise Fault(f"failed to parse platform {text[:100]!r}: {error.message}", at=text, hint=error.hint) from None


def settings_of(dockerfile: Dockerfile, options: LowerOptions, budget: Budget) -> Settings:
    """Raises DockerfileError; UsageError for a platform in the options that is none."""
    explicit = parse_platform(options.platform) if options.platform else None
    target = explicit or parse_platform(options.build_platform)
    build_args = dict(options.build_args)
    if options.source_date_epoch is not None:
        build_args.setdefault(EPOCH, str(options.source_date_epoch))
    stage = options.target or dockerfile.stages[-1].start.name or "default"
    predefined = _predefined(parse_platform(options.build_platform), target, stage, build_args)
    global_args, declared = _with_global_args(predefined, dockerfile, build_args, budget)
    epoch = _epoch(dockerfile, build_args, global_args)
    return Settings(build_args, global_args, declared | frozenset(global_args), target, explicit, epoch)


def _predefined(build: Platform, target: Platform, stage: str, build_args: Mapping[str, str]) -> dict[str, str]:
    """The arguments that FROM knows and a stage may declare (BuildKit, defaultArgs); --build-arg overrides them."""
    values: dict[str, str] = {}
    for prefix, platform in (("BUILD", build), ("TARGET", target)):
        values[f"{prefix}PLATFORM"] = str(platform)
        values[f"{prefix}OS"] = platform.os
        values[f"{prefix}OSVERSION"] = platform.os_version
        values[f"{prefix}ARCH"] = platform.architecture
        values[f"{prefix}VARIANT"] = platform.variant
    values["TARGETSTAGE"] = stage
    return {name: build_args.get(name, value) for name, value in values.items()}


def _with_global_args(
    values: dict[str, str], dockerfile: Dockerfile, build_args: Mapping[str, str], budget: Budget
) -> tuple[dict[str, str], frozenset[str]]:
    """The ARGs before the first FROM, each seeing those before it; and the names that they declare."""
    declared: set[str] = set()
    mode = Mode(escape=dockerfile.directives.escape)
    for arg in dockerfile.global_args:
        for name, default in arg.pairs:
            declared.add(name)
            try:
                value = build_args.get(name)
                if value is None and default is not None:
                    value = expand(default, values, mode, budget).text
            except Fault as fault:
                raise arg.raw.place.error(fault) from None
            if value is not None:
                values[name] = value
    return values, frozenset(declared)


def _epoch(dockerfile: Dockerfile, build_args: dict[str, str], global_args: dict[str, str]) -> int | None:
    """SOURCE_DATE_EPOCH in seconds; an empty one is none. BuildKit's names of contexts and stages are refused."""
    text = build_args.get(EPOCH, global_args.get(EPOCH, ""))
    if not text:
        build_args.pop(EPOCH, None)
        global_args.pop(EPOCH, None)
        return None
    if re.fullmatch(_INTEGER, text) is None:
        place = next(
            (arg.raw.place for arg in dockerfile.global_args if EPOCH in dict(arg.pairs)), dockerfile.stages[0].start.raw.place
        )
        raise place.error(Fault(f"invalid SOURCE_DATE_EPOCH: {text[:100]}", at=text, hint="seconds since 1970"))
    return int(text)
