"""PolicyDocument: a policy file as a whole, validated; every fault has a file, a line and a key."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Annotated, Any, NamedTuple

from pydantic import Field, ValidationError

from sandboxbuild.errors import PolicyError
from sandboxbuild.policy.capabilities import Capabilities
from sandboxbuild.policy.limits import Limits
from sandboxbuild.policy.network import Network, Section
from sandboxbuild.policy.sources import Registries, Sources
from sandboxbuild.policy.syscalls import Syscalls
from sandboxbuild.policy.toml import Located, read_toml


class ProfileHead(Section):
    """[profile]: what makes a policy file a profile."""

    runtime: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,40}$")]
    description: Annotated[str, Field(min_length=1, max_length=300)]


class PolicyDocument(Section):
    """All sections; an absent one is its default, which grants nothing beyond a plain build. `narrows` see narrowing."""

    profile: ProfileHead | None = None
    narrows: bool = False
    network: Network = Network()
    registries: Registries = Registries()
    sources: Sources = Sources()
    syscalls: Syscalls = Syscalls()
    capabilities: Capabilities = Capabilities()
    limits: Limits = Limits()


class Policy(NamedTuple):
    """A valid policy, and the text's places for later errors."""

    file: str
    document: PolicyDocument
    located: Located

    def place(self, *path: str | int) -> str:
        """ "file:line" of a key."""
        return f"{self.file}:{self.located.line_of(path)}"


class Problem(NamedTuple):
    """One fault of a file. `key` is dotted, "" for the whole."""

    file: str
    line: int
    key: str
    message: str

    def __str__(self) -> str:
        return (
            f"{self.file}:{self.line}: {self.key}: {self.message}" if self.key else f"{self.file}:{self.line}: {self.message}"
        )


class InvalidPolicy(PolicyError):
    """The error of a file with `problems`; its message is the first of them."""

    def __init__(self, problems: list[Problem]) -> None:
        more = len(problems) - 1
        hint = f"{more} more: sandboxbuild policy check {problems[0].file}" if more else ""
        super().__init__(str(problems[0]), hint=hint)
        self.problems = problems


def read_policy(file: str, data: bytes) -> Policy:
    """Raises InvalidPolicy, or PolicyError for text that isn't TOML; both name file and line."""
    located = read_toml(file, data)
    try:
        return Policy(file, PolicyDocument.model_validate(located.document), located)
    except ValidationError as error:
        raise InvalidPolicy(problems_of(error, located, PolicyDocument)) from error


def problems_of(error: ValidationError, located: Located, model: type[Section]) -> list[Problem]:
    """Pydantic's faults as ours, in the order of their lines."""
    found = [_problem(fault["type"], fault["loc"], fault["msg"], located, model) for fault in error.errors(include_url=False)]
    return sorted(found, key=lambda problem: (problem.line, problem.key))


def _problem(kind: str, place: tuple[int | str, ...], message: str, located: Located, model: type[Section]) -> Problem:
    path = tuple(part for part in place if part != "[key]")
    if kind == "extra_forbidden":
        message = "unknown key" + _suggestion(str(path[-1]), _keys_at(path[:-1], model))
    elif kind == "missing":
        message = "this key is missing"
    else:
        message = message.removeprefix("Value error, ").removeprefix("Input should be ")
        message = f"should be {message}" if kind != "value_error" else message
    return Problem(located.file, located.line_of(path), dotted(path), message)


def dotted(path: Iterable[str | int]) -> str:
    """("network", "allow", 0) -> "network.allow[0]"."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part[:80]}" if text else part[:80]
    return text.encode("unicode_escape").decode("ascii")


def _suggestion(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _keys_at(path: tuple[str | int, ...], model: type[Section]) -> list[str]:
    """The keys that a table at `path` may have."""
    here: Any = model
    for part in path:
        if isinstance(part, str):
            field = getattr(here, "model_fields", {}).get(part)
            here = _section_in(field.annotation) if field is not None else None
    return list(getattr(here, "model_fields", {}))


def _section_in(annotation: Any) -> Any:
    """The model in an annotation such as list[Annotated[Model, ...]] or Model | None."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        found = _section_in(part)
        if found is not None:
            return found
    return None
