"""[registries] and [sources]: what may be pulled, and what a base image must be. Pushes are the command line's alone."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, Field, model_validator

from sandboxbuild.policy.isolation import RegistryAccess, SourceRules
from sandboxbuild.policy.network import Section

_HOST: Final = r"(?:[a-z0-9*]([a-z0-9*.-]*[a-z0-9*])?)(?::[0-9]{1,5})?"
_SEGMENT: Final = r"[a-z0-9*]([a-z0-9*._-]*[a-z0-9*])?"
_REPOSITORY: Final = re.compile(rf"({_HOST})((?:/(?:{_SEGMENT}))+)", re.ASCII)
_TAG: Final = re.compile(r"[A-Za-z0-9_*][A-Za-z0-9._*-]{0,127}", re.ASCII)
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


def _check_repository(pattern: str) -> str:
    """host[:port]/path, * within a segment, ** for any number of them. The host has no wildcard but for its first label."""
    match = _REPOSITORY.fullmatch(pattern)
    if match is None or len(pattern) > 255:
        raise ValueError(f'{pattern!r} is no pattern of repositories such as "registry.example.com/team/*"')
    host = match[1]
    labels = host.partition(":")[0].split(".")
    if "*" in host and ("*" in "".join(labels[1:]) or labels[0] != "*" or len(labels) < 3):
        raise ValueError(f"{pattern!r} has a registry that isn't one host, or *. above a domain")
    return pattern


def _check_source(pattern: str) -> str:
    """A repository's pattern, with a tag's pattern behind a colon or a digest behind an @."""
    repository, at, digest = pattern.partition("@")
    if at:
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"{pattern!r} has no digest of sha256 behind its @")
        _check_repository(repository)
        return pattern
    name, colon, tag = pattern.rpartition(":")
    if colon and "/" not in tag:
        if not _TAG.fullmatch(tag):
            raise ValueError(f"{pattern!r} has no tag behind its colon")
        _check_repository(name)
        return pattern
    return _check_repository(pattern)


def _check_pins(pins: dict[str, str]) -> dict[str, str]:
    for reference, digest in pins.items():
        name, colon, tag = reference.rpartition(":")
        if not colon or "/" in tag or "*" in reference or not _TAG.fullmatch(tag):
            raise ValueError(f"{reference!r} is no reference with a tag, which a digest could be demanded of")
        _check_repository(name)
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"{digest!r} is no sha256 digest")
    return pins


class Registries(Section):
    """[registries]. Without `pull`, what the Dockerfile names may be pulled; with it, only that, unless both are said."""

    pull: Annotated[list[Annotated[str, AfterValidator(_check_repository)]], Field(max_length=1000)] | None = None
    from_dockerfile: bool | None = None

    @model_validator(mode="after")
    def _agrees(self) -> Registries:
        if self.pull and len(set(self.pull)) != len(self.pull):
            raise ValueError("a pattern is there twice")
        return self

    def value(self) -> RegistryAccess:
        named = self.pull is None if self.from_dockerfile is None else self.from_dockerfile
        return RegistryAccess(tuple(self.pull or ()), named)


class Sources(Section):
    """[sources]. `digests` pins tags: the registry must answer with exactly that manifest."""

    require_digest: bool = False
    allow: Annotated[list[Annotated[str, AfterValidator(_check_source)]], Field(max_length=1000)] = []
    digests: Annotated[dict[str, str], AfterValidator(_check_pins), Field(max_length=1000)] = {}

    @model_validator(mode="after")
    def _agrees(self) -> Sources:
        if self.require_digest and self.digests:
            raise ValueError("require_digest = true refuses the tags that [sources.digests] pins")
        if len(set(self.allow)) != len(self.allow):
            raise ValueError("a pattern is there twice")
        return self

    def value(self) -> SourceRules:
        return SourceRules(self.require_digest, tuple(self.allow), tuple(sorted(self.digests.items())))
