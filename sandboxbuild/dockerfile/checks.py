"""BuildKit's build checks: warnings by rule, and `# check=` to leave some out or to make them errors.

Source: moby/buildkit frontend/dockerfile/linter/ruleset.go and docs. A warning never changes what is built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from sandboxbuild.dockerfile.directives import read_directive
from sandboxbuild.dockerfile.gotext import parse_bool
from sandboxbuild.dockerfile.spans import Fault, Place, closest, readable
from sandboxbuild.dockerfile.words import SPACE
from sandboxbuild.errors import Span

RULES: Final[Mapping[str, str]] = {
    "StageNameCasing": "Stage names are lower case.",
    "FromAsCasing": "AS has the case of FROM.",
    "NoEmptyContinuation": "No empty line interrupts an instruction.",
    "ConsistentInstructionCasing": "All instructions have the same case.",
    "DuplicateStageName": "Stage names are unique.",
    "ReservedStageName": "No stage is called scratch or context.",
    "JSONArgsRecommended": "CMD and ENTRYPOINT are JSON arrays, so that signals arrive.",
    "MaintainerDeprecated": "LABEL takes the place of MAINTAINER.",
    "UndefinedArgInFrom": "FROM uses arguments that are declared.",
    "WorkdirRelativePath": "A relative WORKDIR follows an absolute one.",
    "UndefinedVar": "Variables are set before they are used.",
    "MultipleInstructionsDisallowed": "CMD, ENTRYPOINT and HEALTHCHECK stand once in a stage.",
    "LegacyKeyValueFormat": "ENV and LABEL are written name=value.",
    "InvalidBaseImagePlatform": "The base image has the platform that is built for.",
    "RedundantTargetPlatform": "FROM --platform=$TARGETPLATFORM says what holds anyway.",
    "SecretsUsedInArgOrEnv": "No secret stands in ARG or ENV.",
    "InvalidDefaultArgInFrom": "FROM is a valid name with the defaults of global ARGs.",
    "FromPlatformFlagConstDisallowed": "FROM --platform is no constant.",
    "ExposeProtoCasing": "The protocol of EXPOSE is lower case.",
    "ExposeInvalidFormat": "EXPOSE names no address and no port of the host.",
    "CopyIgnoredFile": "No COPY or ADD names what the ignore file leaves out.",
    "InvalidDefinitionDescription": "A comment above FROM or ARG begins with the name that it describes (experimental).",
    "UnusedBuildArg": "Each --build-arg is declared by an ARG.",
}
_EXPERIMENTAL: Final = frozenset(("InvalidDefinitionDescription",))
_SECRET: Final = frozenset(
    ("apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token")
)
_NO_SECRET: Final = frozenset(("public", "file", "version"))
_MOST: Final = 1_000
ALL: Final = "all"


class CheckOptions(NamedTuple):
    """What `# check=` says. "all" in a set stands for every rule."""

    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    error: bool = False


def parse_options(text: str) -> CheckOptions:
    """`skip=A,B;error=true;experimental=all`; what follows a blank is a remark. Raises a Fault."""
    options = CheckOptions()
    text = text.strip(SPACE).partition(" ")[0]
    for part in text.split(";", 2) if text else ():
        key, equals, value = part.partition("=")
        names = frozenset((ALL,)) if value.strip() == ALL else frozenset(name.strip() for name in value.split(",")) - {ALL}
        if key.strip() == "skip" and equals:
            options = options._replace(skip=names)
        elif key.strip() == "experimental" and equals:
            options = options._replace(experimental=names)
        elif key.strip() == "error" and equals and (flag := parse_bool(value.strip())) is not None:
            options = options._replace(error=flag)
        else:
            raise Fault(f"invalid check option {part[:100]!r}", at=part, hint="skip=RULES;error=true;experimental=RULES")
    return options


class Linter:
    """Collects warnings. `enter` takes the comments above an instruction: `# check=skip=...` holds for it alone."""

    __slots__ = ("_here", "_seen", "options", "warnings")

    def __init__(self, options: CheckOptions) -> None:
        self.options = options
        self.warnings: list[tuple[Span, str]] = []
        self._seen: set[tuple[Span, str]] = set()
        self._here: frozenset[str] = frozenset()

    def enter(self, comments: Sequence[str]) -> None:
        self._here = frozenset()
        directives = (read_directive(f"#{comment}") for comment in comments)
        text = next((found[1] for found in directives if found is not None and found[0] == "check"), "")
        try:
            self._here = parse_options(text).skip
        except Fault:
            return  # to BuildKit a comment that is no directive is a comment

    def warn(self, rule: str, message: str, place: Place | None, token: str = "") -> None:
        """Once for each place and message, and not without end."""
        skipped = self.options.skip | self._here
        if place is None or rule in skipped or ALL in skipped or len(self.warnings) >= _MOST:
            return
        if rule in _EXPERIMENTAL and not self.options.experimental & {rule, ALL}:
            return
        warning = (place.span(token), readable(f"{rule}: {message}"))
        if warning not in self._seen:
            self._seen.add(warning)
            self.warnings.append(warning)

    def fail(self, place: Place) -> None:
        """Raise a DockerfileError if the file says that warnings are errors and there are some."""
        if self.options.error and self.warnings:
            rules = sorted({message.partition(":")[0] for _, message in self.warnings})
            span = self.warnings[0][0]
            there = place._replace(line=span.line, end_line=span.end_line)
            raise there.error(Fault(f"lint violation found for rules: {', '.join(rules)}", hint=self.warnings[0][1]))

    def undefined_variable(self, name: str, known: Sequence[str], place: Place | None) -> None:
        self.warn("UndefinedVar", f"usage of undefined variable '${name}'{_suggestion('$', name, known)}", place, name)

    def undefined_argument(self, name: str, known: Sequence[str], place: Place) -> None:
        message = f"FROM argument {name!r} is not declared{_suggestion('', name, known)}"
        self.warn("UndefinedArgInFrom", message, place, name)

    def secret_name(self, keyword: str, name: str, place: Place) -> None:
        words = frozenset(name.lower().split("_"))
        if words & _SECRET and not words & _NO_SECRET:
            message = f"do not use ARG or ENV instructions for sensitive data ({keyword} {name!r})"
            self.warn("SecretsUsedInArgOrEnv", message, place, name)

    def legacy_pair(self, keyword: str, legacy: bool, place: Place) -> None:
        if legacy:
            message = f'"{keyword} key=value" should be used instead of legacy "{keyword} key value" format'
            self.warn("LegacyKeyValueFormat", message, place)

    def used_once(self, keyword: str, seen: dict[str, Place], place: Place) -> None:
        """Warn of the earlier one, which is the one without effect."""
        if keyword in seen:
            message = f"multiple {keyword} instructions should not be used in the same stage because only the last one counts"
            self.warn("MultipleInstructionsDisallowed", message, seen[keyword])
        seen[keyword] = place

    def json_recommended(self, keyword: str, place: Place) -> None:
        message = f"JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals"
        self.warn("JSONArgsRecommended", message, place)

    def relative_workdir(self, path: str, set_before: bool, place: Place) -> None:
        if not set_before and not path.startswith("/"):
            message = f"relative workdir {path!r} can have unexpected results if the base image changes"
            self.warn("WorkdirRelativePath", message, place, path)

    def ignored_source(self, keyword: str, source: str, place: Place) -> None:
        message = f"Attempting to {keyword.capitalize()} file {source!r} that is excluded by .dockerignore"
        self.warn("CopyIgnoredFile", message, place, source)

    def expose_format(self, operand: str, place: Place) -> None:
        protocol = operand.partition("/")[2]
        if protocol != protocol.lower():
            message = f"defined protocol {operand!r} for EXPOSE should be lowercase"
            self.warn("ExposeProtoCasing", message, place, operand)
        if operand.rpartition(":")[0].strip(":"):
            message = f"EXPOSE instruction should not define an IP address or host-port mapping, found {operand!r}"
            self.warn("ExposeInvalidFormat", message, place, operand)


def _suggestion(mark: str, name: str, known: Sequence[str]) -> str:
    match = closest(name, known)
    return f" (did you mean {mark}{match}?)" if match else ""
