"""What the stages are built on and what they take from each other: names, bases, the graph, which stages are needed.

Source: moby/buildkit frontend/dockerfile/dockerfile2llb/convert.go. No image is looked for here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from sandboxbuild.dockerfile.checks import Linter
from sandboxbuild.dockerfile.expansion import Expansion, Mode, expand
from sandboxbuild.dockerfile.instructions.base import Command
from sandboxbuild.dockerfile.instructions.copy import Copy
from sandboxbuild.dockerfile.limits import Budget
from sandboxbuild.dockerfile.options import LowerOptions, Settings, read_platform
from sandboxbuild.dockerfile.parsing import Dockerfile, StageText
from sandboxbuild.dockerfile.spans import Fault, did_you_mean
from sandboxbuild.errors import UsageError
from sandboxbuild.oci.platform import Platform
from sandboxbuild.oci.reference import is_reference, parse_reference
from sandboxbuild.plan.operations import SCRATCH, ContextSource, FileSource, ImageSource, StageSource
from sandboxbuild.plan.steps import BaseImage, BaseStage, Scratch

_NUMBER: Final = r"[+-]?[0-9]{1,9}"
_IMAGES: Final = ("docker-image://", "oci-layout://")


class BaseContext(NamedTuple):
    """FROM a named context that is a tree."""

    name: str


StageBase = Scratch | BaseImage | BaseStage | BaseContext


class StageInfo(NamedTuple):
    """A stage with its FROM expanded. `commands` is empty where a named context takes the stage's place."""

    number: int
    text: StageText
    base: StageBase
    platform: Platform
    commands: tuple[Command, ...]

    @property
    def shown_name(self) -> str:
        return self.text.start.name or f"stage-{self.number}"


class Contexts:
    """Named contexts by the familiar form of their names: `alpine:latest` and `docker.io/library/alpine` are one."""

    __slots__ = ("_places",)

    def __init__(self, named: tuple[tuple[str, str], ...]) -> None:
        self._places: dict[str, tuple[str, str]] = {_familiar(name): (name, where) for name, where in named}

    def image(self, name: str) -> str | None:
        """The reference of the image that the name stands for, or None."""
        where = self._places.get(_familiar(name), ("", ""))[1]
        return where.removeprefix(_IMAGES[0]) if where.startswith(_IMAGES) else None

    def tree(self, name: str) -> str | None:
        """The context's own name if it is a tree, or None."""
        found = self._places.get(_familiar(name)) if name.lower() not in (SCRATCH, "context") else None
        return found[0] if found and not found[1].startswith(_IMAGES) else None


def _familiar(name: str) -> str:
    try:
        return parse_reference(name).familiar.removesuffix(":latest")
    except UsageError:
        return name


class StageGraph:
    """All stages of a file. Raises DockerfileError where FROM or --from says what can't be, in unneeded stages, too."""

    def __init__(self, dockerfile: Dockerfile, options: LowerOptions, settings: Settings, lint: Linter, budget: Budget) -> None:
        self.dockerfile = dockerfile
        self.settings = settings
        self.lint = lint
        self.budget = budget
        self.contexts = Contexts(options.named_contexts)
        self.names: dict[str, int] = {}
        self.stages = tuple(self._stage(number, text) for number, text in enumerate(dockerfile.stages))
        self.target = self._target(options.target)
        self._refuse_cycles()

    def _stage(self, number: int, text: StageText) -> StageInfo:
        start = text.start
        try:
            self.lint.enter(start.raw.comments)
            info = self._read(number, text)
        except Fault as fault:
            raise start.raw.place.error(fault) from None
        if start.name:
            self.names[start.name] = number
        return info

    def _read(self, number: int, text: StageText) -> StageInfo:
        start = text.start
        image = self._expand(text, start.image).text
        if not image:
            raise Fault(f"base name ({start.image[:200]}) should not be blank", at=start.image)
        explicit = self._platform(text)
        platform = explicit or self.settings.target_platform
        wanted = explicit or self.settings.explicit_platform
        if start.name and (replaced := self._context(start.name, wanted)) is not None:
            return StageInfo(number, text, replaced, platform, ())
        base = self._base(image, wanted)
        if isinstance(base, Scratch):
            platform = self.settings.target_platform
        return StageInfo(number, text, base, platform, text.commands)

    def _platform(self, text: StageText) -> Platform | None:
        written = text.start.platform
        if not written:
            return None
        found = self._expand(text, written)
        if not found.text:
            raise Fault(f"empty platform value from expression {written[:100]}", at=written)
        platform = read_platform(found.text)
        place = text.start.raw.place
        if found.used == {"TARGETPLATFORM"} and not found.unset and found.text == self.settings.global_args["TARGETPLATFORM"]:
            message = f"setting platform to predefined {written} in FROM is redundant as this is the default behavior"
            self.lint.warn("RedundantTargetPlatform", message, place, written)
        named = text.start.name
        if not found.used and not found.unset and platform.os not in named and platform.architecture not in named:
            message = f"FROM --platform flag should not use constant value {found.text!r}"
            self.lint.warn("FromPlatformFlagConstDisallowed", message, place, written)
        return platform

    def _expand(self, text: StageText, word: str) -> Expansion:
        found = expand(word, self.settings.global_args, Mode(escape=self.dockerfile.directives.escape), self.budget)
        for name in sorted(found.unset - self.settings.declared_globally):
            self.lint.undefined_argument(name, sorted(self.settings.declared_globally), text.start.raw.place)
        return found

    def _context(self, name: str, platform: Platform | None) -> StageBase | None:
        image = self.contexts.image(name)
        if image is not None:
            return BaseImage(image, str(platform or ""))
        tree = self.contexts.tree(name)
        return None if tree is None else BaseContext(tree)

    def _base(self, image: str, platform: Platform | None) -> StageBase:
        """A stage above, by its exact name; scratch; a named context; an image."""
        if image in self.names:
            return BaseStage(self.names[image])
        if image == SCRATCH:
            return Scratch()
        found = self._context(image, platform)
        if found is not None:
            return found
        try:
            parse_reference(image)
        except UsageError as error:
            raise Fault(f"failed to parse stage name {image[:200]!r}: {error.message}", at=image, hint=error.hint) from None
        return BaseImage(image, str(platform or ""))

    def _target(self, name: str) -> int:
        if not name:
            return len(self.stages) - 1
        number = self.names.get(name.lower())
        if number is None:
            hint = did_you_mean(name, list(self.names)) or f"the stages are {', '.join(self.names) or 'without names'}"
            place = self.stages[-1].text.start.raw.place
            raise place.error(Fault(f'target stage "{name[:200]}" could not be found', hint=hint))
        return number

    def stage_named(self, name: str, *, numbers: bool) -> int | None:
        """The stage that --from names, later ones too; None is an image or a context. Raises a Fault for a wrong number."""
        if numbers and re.fullmatch(_NUMBER, name):
            if not 0 <= int(name) < len(self.stages):
                raise Fault(f"invalid stage index {int(name)}", at=name, hint=f"there are stages 0 to {len(self.stages) - 1}")
            return int(name)
        return self.names.get(name.lower())

    def find_source(self, number: int, name: str, numbers: bool) -> FileSource:
        """What `--from=name` means in the stage `number`. Raises a Fault."""
        stage = self.stage_named(name, numbers=numbers)
        if stage is not None:
            if stage >= number:
                here = self.stages[number].shown_name
                message = f'cannot copy from stage "{name[:200]}", it needs to be defined before current stage "{here}"'
                raise Fault(message, at=name)
            return StageSource(stage)
        image = self.contexts.image(name)
        if image is None:
            tree = self.contexts.tree(name)
            if tree is not None:
                return ContextSource(tree)
            if not is_reference(name):
                raise Fault(
                    f"{name[:200]!r} is neither a stage nor an image", at=name, hint=did_you_mean(name, list(self.names))
                )
        return ImageSource(name if image is None else image, str(self.settings.explicit_platform or ""))

    def dependencies(self, number: int, command: Command) -> tuple[int, ...]:
        """The stages that an instruction names. Raises DockerfileError."""
        try:
            return tuple(self._dependencies(number, command))
        except Fault as fault:
            raise command.raw.place.error(fault) from None

    def _dependencies(self, number: int, command: Command) -> list[int]:
        found: list[int] = []
        for name in command.references:
            if isinstance(command, Copy) and expand(name, {}, Mode(self.dockerfile.directives.escape)).text != name:
                hint = "define a new stage with FROM using ARG from global scope"
                raise Fault("variable expansion is not supported for --from", at=name, hint=hint)
            stage = self.stage_named(name, numbers=isinstance(command, Copy))
            if stage == number:
                raise Fault(f"circular dependency detected on stage: {self.stages[number].shown_name}", at=name)
            if stage is not None:
                found.append(stage)
        return found

    def edges(self, number: int) -> tuple[int, ...]:
        """The stages that a stage needs, ONBUILD triggers left aside."""
        stage = self.stages[number]
        base = (stage.base.stage,) if isinstance(stage.base, BaseStage) else ()
        return (*base, *(other for command in stage.commands for other in self.dependencies(number, command)))

    def _refuse_cycles(self) -> None:
        """Take away stages that need nothing that is left, until none is left or a cycle is."""
        left: Mapping[int, set[int]] = {stage.number: set(self.edges(stage.number)) for stage in self.stages}
        users: dict[int, list[int]] = {}
        for number, needs in left.items():
            for other in needs:
                users.setdefault(other, []).append(number)
        ready = [number for number, needs in left.items() if not needs]
        done = 0
        while ready:
            number = ready.pop()
            done += 1
            for user in users.get(number, ()):
                left[user].discard(number)
                if not left[user]:
                    ready.append(user)
        if done < len(self.stages):
            number = next(number for number, needs in left.items() if needs)
            stage = self.stages[number]
            raise stage.text.start.raw.place.error(Fault(f"circular dependency detected on stage: {stage.shown_name}"))
