"""Scope: what the instructions of one stage see and change while they are lowered, one after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from sandboxbuild.dockerfile import limits
from sandboxbuild.dockerfile.checks import Linter
from sandboxbuild.dockerfile.expansion import Expansion, Mode, expand
from sandboxbuild.dockerfile.ignore import IgnoreRules
from sandboxbuild.dockerfile.instructions.workdir import absolute_path
from sandboxbuild.dockerfile.limits import Budget
from sandboxbuild.dockerfile.spans import Fault, Place
from sandboxbuild.oci.config import ImageConfig
from sandboxbuild.plan.operations import FileSource

NOT_IN_ENVIRONMENT: Final = frozenset(("BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"))
_HEREDOC: Final = Mode(no_quotes=True)

FindSource = Callable[[str, bool], FileSource]


class Surroundings:
    """What all stages of a build share. `find_source` turns a name (and: may it be a number?) into a source, for the stage
    whose number is given first."""

    __slots__ = ("budget", "build_args", "escape", "find_source", "global_args", "ignore", "lint", "proxies")

    def __init__(
        self,
        *,
        escape: str,
        build_args: Mapping[str, str],
        global_args: Mapping[str, str],
        find_source: Callable[[int, str, bool], FileSource],
        lint: Linter,
        budget: Budget,
        ignore: IgnoreRules | None = None,
    ) -> None:
        self.escape = escape
        self.build_args = build_args
        self.global_args = global_args
        self.find_source = find_source
        self.lint = lint
        self.budget = budget
        self.ignore = ignore
        self.proxies = proxy_environment(build_args)


class Scope:
    """One stage. `env` is what RUN and expansion see: ENV and ARG in the order in which they were set.

    `declared` are the ARGs, a stage's own after those of the stage that it is built on. `once` holds where instructions of
    which the last counts stood before.
    """

    __slots__ = (
        "_env",
        "_environment",
        "_image_env",
        "config",
        "declared",
        "knows_base",
        "number",
        "once",
        "place",
        "shared",
        "stage",
        "workdir_set",
    )

    def __init__(self, number: int, stage: str, config: ImageConfig, shared: Surroundings, base: Scope | None = None) -> None:
        self.number = number
        self.stage = stage
        self.config = config
        self.shared = shared
        self.declared: list[tuple[str, str | None]] = list(base.declared) if base else []
        self.workdir_set: bool = base.workdir_set if base else False
        self.once: dict[str, Place] = {}
        self.knows_base = True  # else nobody can say what the base's variables are
        self.place: Place | None = None
        self._env: dict[str, str] = {**(base._env if base else {}), **dict(config.env)}
        self._image_env = dict(config.env)
        self._environment: tuple[tuple[str, str], ...] | None = None

    @property
    def env(self) -> Mapping[str, str]:
        return self._env

    @property
    def environment(self) -> tuple[tuple[str, str], ...]:
        """`env` as a step gets it."""
        if self._environment is None:
            self._environment = self._listed(self._env)
        return self._environment

    def _listed(self, variables: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        self.shared.budget.spend(len(variables) * limits.VARIABLE_COST)
        return tuple(variables.items())

    @property
    def lint(self) -> Linter:
        return self.shared.lint

    @property
    def workdir(self) -> str:
        """Absolute and clean, whatever the config has."""
        return absolute_path("/", self.config.working_dir)

    def set_variable(self, name: str, value: str) -> None:
        """As seen by what follows; the config isn't touched. Raises a Fault for what no environment can hold."""
        if "\0" in name or "\0" in value:
            raise Fault(f"the variable {name!r} can't hold a NUL byte")
        self._environment = None
        self._env.pop(name, None)
        self._env[name] = value
        if len(self._env) > limits.VARIABLES:
            raise Fault(f"more than {limits.VARIABLES} variables in one stage")

    def set_image_variables(self, pairs: Sequence[tuple[str, str]]) -> None:
        """As `set_variable`, and the image keeps them; a name that is known keeps its place in the list."""
        for name, value in pairs:
            self.set_variable(name, value)
            self._image_env[name] = value
        self.config = self.config._replace(env=self._listed(self._image_env))

    def declare(self, name: str, value: str | None) -> None:
        self.declared.append((name, value))
        if value is not None and name not in NOT_IN_ENVIRONMENT:
            self.set_variable(name, value)
        if len(self.declared) > limits.VARIABLES:
            raise Fault(f"more than {limits.VARIABLES} arguments in one stage")

    def expand(self, word: str) -> str:
        """`word` with variables, quotes and escapes read."""
        return self._expand(word, Mode(escape=self.shared.escape)).text

    def expand_words(self, word: str) -> tuple[str, ...]:
        return self._expand(word, Mode(escape=self.shared.escape)).words

    def expand_heredoc(self, content: str) -> str:
        """Quotes are text there, and the escape is a backslash always."""
        return self._expand(content, _HEREDOC).text

    def _expand(self, word: str, mode: Mode) -> Expansion:
        found = expand(word, self._env, mode, self.shared.budget)
        if found.unset and self.knows_base:
            declared = {name for name, _ in self.declared}
            for name in sorted(found.unset - declared - NOT_IN_ENVIRONMENT):
                self.lint.undefined_variable(name, tuple(self._env), self.place)
        return found

    def find_source(self, name: str, *, numbers: bool) -> FileSource:
        return self.shared.find_source(self.number, name, numbers)


def proxy_environment(build_args: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The proxy variables among the build arguments, in both spellings: they need no ARG (Docker, predefined ARGs)."""
    found: dict[str, str] = {}
    for name in sorted(build_args):
        if name.lower() in ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"):
            found[name.lower()] = build_args[name]
    return tuple(pair for name, value in found.items() if value for pair in ((name.upper(), value), (name, value)))
