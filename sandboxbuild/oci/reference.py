"""Reference: the name of an image, by the grammar of the distribution project's reference package, as Docker normalises it."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from sandboxbuild.errors import UsageError
from sandboxbuild.oci.digest import is_digest

DEFAULT_REGISTRY: Final = "docker.io"
DEFAULT_TAG: Final = "latest"
_LEGACY_REGISTRY: Final = "index.docker.io"
_OFFICIAL: Final = "library/"
_MAX_NAME: Final = 255  # reference package, RepositoryNameTotalLengthMax
_MAX_TEXT: Final = 1024

_LABEL: Final = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST: Final = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])"
_DOMAIN: Final = re.compile(rf"{_HOST}(?::([0-9]{{1,5}}))?", re.ASCII)
_COMPONENT: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)
_IDENTIFIER: Final = re.compile(r"[a-f0-9]{64}", re.ASCII)


class Reference(NamedTuple):
    """registry/repository[:tag][@digest]. `registry` is host[:port]; "" means absent for `tag` and `digest`."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        return self.name + self._suffix

    @property
    def name(self) -> str:
        """registry/repository."""
        return f"{self.registry}/{self.repository}"

    @property
    def familiar(self) -> str:
        """As people write it: without docker.io and library."""
        if self.registry != DEFAULT_REGISTRY:
            return str(self)
        return self.repository.removeprefix(_OFFICIAL) + self._suffix

    @property
    def target(self) -> str:
        """What a registry is asked for: the digest if there is one, else the tag."""
        return self.digest or self.tag

    @property
    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def parse_reference(text: str) -> Reference:
    """The normalised reference: docker.io and library are filled in, and "latest" where neither tag nor digest is given.

    Raises UsageError.
    """
    if len(text) > _MAX_TEXT:
        raise _malformed(text, "it is too long")
    if _IDENTIFIER.fullmatch(text) is not None:
        raise _malformed(text, "64 hex digits are an image's id, not a name")
    name, separator, digest = text.partition("@")
    if separator and not is_digest(digest):
        raise _malformed(text, "what follows @ is not a digest")
    name, tag = _split_tag(name)
    if tag is not None and _TAG.fullmatch(tag) is None:
        raise _malformed(text, f"{tag[:140]!r} is not a tag")
    registry, repository = _split_registry(name)
    _check_registry(text, registry)
    _check_repository(text, repository)
    return Reference(registry, repository, tag or ("" if digest else DEFAULT_TAG), digest)


def is_reference(text: str) -> bool:
    try:
        parse_reference(text)
    except UsageError:
        return False
    return True


def _split_tag(name: str) -> tuple[str, str | None]:
    """A colon after the last slash begins the tag; one before it belongs to the port."""
    head, colon, tag = name.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (name, None)


def _split_registry(name: str) -> tuple[str, str]:
    """Docker's rule: the first component is a registry if it has a dot, a colon or an upper-case letter, or is localhost."""
    first, slash, rest = name.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost" or first != first.lower()):
        registry, repository = DEFAULT_REGISTRY, name
    else:
        registry, repository = first, rest
    if registry == _LEGACY_REGISTRY:
        registry = DEFAULT_REGISTRY
    if registry == DEFAULT_REGISTRY and "/" not in repository:
        repository = _OFFICIAL + repository
    return registry, repository


def _check_registry(text: str, registry: str) -> None:
    match = _DOMAIN.fullmatch(registry)
    if match is None or len(registry) > _MAX_NAME:
        raise _malformed(text, f"{registry[:140]!r} is not a registry's host and port")
    port = match.group(1)
    if port is not None and not 1 <= int(port) <= 65535:
        raise _malformed(text, f"{port} is not a port")


def _check_repository(text: str, repository: str) -> None:
    if _PATH.fullmatch(repository) is None:
        if _PATH.fullmatch(repository.lower()) is not None:
            raise _malformed(text, "a repository's name is in lower case")
        raise _malformed(text, f"{repository[:140]!r} is not a repository's name")
    if len(repository) > _MAX_NAME:
        raise _malformed(text, f"its name has more than {_MAX_NAME} characters")


def _malformed(text: str, reason: str) -> UsageError:
    return UsageError(f"invalid image reference {text[:300]!r}: {reason}")
