"""Stages to BuildPlan: each instruction of each needed stage becomes a Step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sandboxbuild.dockerfile import limits
from sandboxbuild.dockerfile.checks import Linter, parse_options
from sandboxbuild.dockerfile.filechecks import check_file
from sandboxbuild.dockerfile.instructions.base import Command
from sandboxbuild.dockerfile.instructions.onbuild import Onbuild
from sandboxbuild.dockerfile.instructions.workdir import absolute_path
from sandboxbuild.dockerfile.limits import Budget
from sandboxbuild.dockerfile.options import LowerOptions, Resolve, Settings, settings_of
from sandboxbuild.dockerfile.parsing import Dockerfile, parse_trigger
from sandboxbuild.dockerfile.scope import Scope, Surroundings
from sandboxbuild.dockerfile.spans import Fault
from sandboxbuild.dockerfile.stages import BaseContext, StageGraph, StageInfo
from sandboxbuild.errors import Span
from sandboxbuild.oci.config import ImageConfig
from sandboxbuild.oci.platform import Platform
from sandboxbuild.plan.operations import SCRATCH, ContextSource, CopyOp, ImageSource
from sandboxbuild.plan.steps import BaseImage, BaseStage, BuildPlan, Scratch, Stage, Step

TRIGGER: Final = "ONBUILD "  # in front of a trigger's text
DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def lower(dockerfile: Dockerfile, options: LowerOptions, resolve: Resolve) -> BuildPlan:
    """The plan of a build. `resolve` is asked for the config of each image that a needed stage is built on, once.

    Raises DockerfileError, UsageError for options that make no sense, and what `resolve` raises.
    """
    lowering = _Lowering(dockerfile, options, resolve)
    stages = lowering.stages()
    check_file(dockerfile, lowering.settings.build_args, lowering.lint)
    lowering.lint.fail(dockerfile.place)
    return BuildPlan(stages, lowering.graph.target, tuple(sorted(lowering.lint.warnings)), lowering.settings.source_date_epoch)


def check(dockerfile: Dockerfile, options: LowerOptions, resolve: Resolve | None = None) -> tuple[tuple[Span, str], ...]:
    """The warnings alone, of all stages unless there is a target. Without `resolve`, what hangs on base images is left out."""
    options = options._replace(all_stages=not options.target)
    lowering = _Lowering(dockerfile, options, resolve)
    lowering.stages()
    check_file(dockerfile, lowering.settings.build_args, lowering.lint)
    return tuple(sorted(lowering.lint.warnings))


def base_images(dockerfile: Dockerfile, options: LowerOptions) -> tuple[BaseImage, ...]:
    """The images that FROM, COPY --from and RUN --mount name in the stages that the target needs.

    What ONBUILD triggers of these images name is not known here.
    """
    lowering = _Lowering(dockerfile, options, None)
    found: dict[BaseImage, None] = {}
    for number in sorted(lowering.needed()):
        stage = lowering.graph.stages[number]
        if isinstance(stage.base, BaseImage):
            found[stage.base] = None
        for command in stage.commands:
            for image in lowering.images_of(number, command):
                found[image] = None
    return tuple(found)


def needed_commands(dockerfile: Dockerfile, options: LowerOptions) -> Iterator[tuple[str, str, Command]]:
    """(stage's name or number, the step's text, the instruction) of the stages that the target needs, triggers included.

    What ONBUILD triggers of base images hold is not known here.
    """
    lowering = _Lowering(dockerfile, options, None)
    for number in sorted(lowering.needed()):
        stage = lowering.graph.stages[number]
        name = stage.text.start.name or str(number)
        for trigger in lowering.triggers(number):
            yield name, TRIGGER + trigger.raw.shown, trigger
        for command in stage.commands:
            yield name, command.raw.shown, command


class _Lowering:
    """One call of `lower`: the graph, what is known of images, and the scopes of stages that are done."""

    def __init__(self, dockerfile: Dockerfile, options: LowerOptions, resolve: Resolve | None) -> None:
        self.options = options
        self.resolve = resolve
        budget = Budget()
        try:
            text = dockerfile.directives.check if options.checks is None else options.checks
            self.lint = Linter(parse_options(text))
        except Fault as fault:
            raise dockerfile.place._replace(end_line=1).error(fault) from None
        self.settings: Settings = settings_of(dockerfile, options, budget)
        self.graph = StageGraph(dockerfile, options, self.settings, self.lint, budget)
        self.shared = Surroundings(
            escape=dockerfile.directives.escape,
            build_args=self.settings.build_args,
            global_args=self.settings.global_args,
            find_source=self.graph.find_source,
            lint=self.lint,
            budget=budget,
            ignore=options.ignore,
        )
        self._configs: dict[BaseImage, ImageConfig] = {}
        self._triggers: dict[int, tuple[Command, ...]] = {}
        self._scopes: dict[int, Scope] = {}

    def needed(self) -> set[int]:
        """The target and all that it needs, by its own instructions and by triggers."""
        pending = list(range(len(self.graph.stages))) if self.options.all_stages else [self.graph.target]
        found: set[int] = set()
        while pending:
            number = pending.pop()
            if number in found:
                continue
            found.add(number)
            pending += self.graph.edges(number)
            for trigger in self.triggers(number):
                pending += self.graph.dependencies(number, trigger)
        return found

    def images_of(self, number: int, command: Command) -> tuple[BaseImage, ...]:
        try:
            sources = [self.graph.find_source(number, name, command.raw.keyword == "COPY") for name in command.references]
        except Fault as fault:
            raise command.raw.place.error(fault) from None
        images = (source for source in sources if isinstance(source, ImageSource) and source.reference != SCRATCH)
        return tuple(BaseImage(image.reference, image.platform) for image in images)

    def config_of(self, image: BaseImage) -> ImageConfig:
        if self.resolve is None:
            return ImageConfig()
        if image not in self._configs:
            self._configs[image] = self.resolve(image)
        return self._configs[image]

    def triggers(self, number: int) -> tuple[Command, ...]:
        """The ONBUILD triggers that fire after FROM: of the stage or of the image below."""
        if number not in self._triggers:
            stage = self.graph.stages[number]
            place = stage.text.start.raw.place
            texts = self._trigger_texts(stage)
            if len(texts) > limits.TRIGGERS:
                raise place.error(Fault(f"the base has more than {limits.TRIGGERS} ONBUILD triggers"))
            self._triggers[number] = tuple(parse_trigger(text, place) for text in texts)
        return self._triggers[number]

    def _trigger_texts(self, stage: StageInfo) -> tuple[str, ...]:
        if isinstance(stage.base, BaseImage):
            return self.config_of(stage.base).onbuild
        if isinstance(stage.base, BaseStage):
            commands = self.graph.stages[stage.base.stage].commands
            return tuple(command.trigger for command in commands if isinstance(command, Onbuild))
        return ()

    def stages(self) -> tuple[Stage, ...]:
        """The needed stages, each after those that it can need."""
        return tuple(self._stage(self.graph.stages[number]) for number in sorted(self.needed()))

    def _stage(self, info: StageInfo) -> Stage:
        start = info.text.start
        config = self._base_config(info)
        below = self._scopes.get(info.base.stage) if isinstance(info.base, BaseStage) else None
        scope = Scope(info.number, info.shown_name, config, self.shared, below)
        scope.knows_base = below.knows_base if below else self.resolve is not None or isinstance(info.base, Scratch)
        self._scopes[info.number] = scope
        steps = [_context_step(info.base, info, config)] if isinstance(info.base, BaseContext) else []
        steps += [_step(command, scope, TRIGGER) for command in self.triggers(info.number)]
        steps += [_step(command, scope) for command in info.commands]
        base = Scratch() if isinstance(info.base, BaseContext) else info.base
        platform = _platform_of(config) if below else info.platform
        stage = Stage(
            info.number, start.name, base, str(platform), config, tuple(steps), start.raw.place.span(), start.raw.shown
        )
        return self._finished(stage) if info.number == self.graph.target else stage

    def _base_config(self, info: StageInfo) -> ImageConfig:
        """The config below the first instruction: triggers gone, PATH set, WORKDIR absolute."""
        if isinstance(info.base, BaseStage):
            return self._scopes[info.base.stage].config._replace(onbuild=())
        if isinstance(info.base, BaseImage):
            config = self.config_of(info.base)
            self._check_platform(info, config)
        else:
            config = ImageConfig(*info.platform[:2], variant=info.platform.variant, os_version=info.platform.os_version)
            config = config._replace(working_dir="/")
        if "PATH" not in dict(config.env):
            config = config._replace(env=(*config.env, ("PATH", DEFAULT_PATH)))
        workdir = config.working_dir
        if workdir and not workdir.startswith("/"):
            workdir = absolute_path("/", workdir)
        return config._replace(created="", onbuild=(), working_dir=workdir)

    def _check_platform(self, info: StageInfo, config: ImageConfig) -> None:
        expected, actual = info.platform, _platform_of(config)
        if self.resolve is not None and expected[:2] != actual[:2]:
            message = f"base image {info.text.start.image} has the platform {actual}, expected is {expected}"
            self.lint.warn("InvalidBaseImagePlatform", message, info.text.start.raw.place)

    def _finished(self, stage: Stage) -> Stage:
        """--label wins over LABEL; a platform that was asked for is the image's."""
        config = stage.config
        config = config._replace(labels=tuple({**dict(config.labels), **dict(self.options.labels)}.items()))
        platform = self.settings.explicit_platform
        if platform is not None:
            same = (platform.os, platform.architecture) == (config.os, config.architecture)
            config = config._replace(
                os=platform.os,
                architecture=platform.architecture,
                variant=platform.variant if platform.variant or not same else config.variant,
                os_version=platform.os_version if platform.os_version or not same else config.os_version,
            )
        if not stage.steps:
            return stage._replace(base_config=config)
        return stage._replace(steps=(*stage.steps[:-1], stage.steps[-1]._replace(config_after=config)))


def _platform_of(config: ImageConfig) -> Platform:
    return Platform(config.os, config.architecture, config.variant, config.os_version)


def _step(command: Command, scope: Scope, prefix: str = "") -> Step:
    raw = command.raw
    scope.place = raw.place
    try:
        scope.lint.enter(raw.comments)
        lowered = command.lower(scope)
        scope.shared.budget.spend(len(lowered.created_by))
    except Fault as fault:
        raise raw.place.error(fault) from None
    return Step(
        prefix + raw.shown,
        raw.place.span(),
        lowered.op,
        scope.config,
        lowered.created_by,
        lowered.depends_on,
        lowered.has_history,
    )


def _context_step(base: BaseContext, info: StageInfo, config: ImageConfig) -> Step:
    """FROM a tree: all of it, on nothing."""
    start = info.text.start.raw
    op = CopyOp((ContextSource(base.name),), (("/",),), "/")
    return Step(f"FROM {base.name}", start.place.span(), op, config, f"FROM {base.name}")
