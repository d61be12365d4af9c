"""Contexts that are URLs: what the sandbox is told to fetch, and what the gateway may fetch for it, as whom. Pure.

User information is taken out of a URL here: what goes into the sandbox names a place and never who asks.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from sandboxbuild.dockerfile.instructions.remotes import is_git
from sandboxbuild.errors import ContextError
from sandboxbuild.gateway.config import FetchGrant
from sandboxbuild.protocol.request import GIT_PREFIX

GIT_TOKEN: Final = "GIT_AUTH_TOKEN"  # noqa: S105 - BuildKit's names of secrets; with .HOST they are for that host
GIT_HEADER: Final = "GIT_AUTH_HEADER"
_SSH: Final = ("git@", "ssh://")
_GIT_SCHEME: Final = "git://"
_HOST: Final = re.compile(r"[A-Za-z0-9.-]{1,253}(?::[0-9]{1,5})?", re.ASCII)


class RemoteContext(NamedTuple):
    """`where` is for the request: a URL without credentials, with GIT_PREFIX for a repository."""

    where: str
    grants: tuple[FetchGrant, ...]


def is_remote(text: str) -> bool:
    return text.startswith(("http://", "https://", _GIT_SCHEME, *_SSH))


def remote_context(text: str, environ: Mapping[str, str], secret_ids: Collection[str]) -> RemoteContext:
    """Read a context's URL. Raises ContextError.

    git:// is kaniko's spelling for a repository over https, `git://HOST/PATH#REF#COMMIT`, or over GIT_PULL_METHOD=http.
    """
    if text.startswith(_SSH):
        raise ContextError("a context by git over ssh is not supported", hint="give the repository's https:// URL")
    if text.startswith(_GIT_SCHEME):
        return _git(_kaniko_url(text, environ), environ, secret_ids)
    if is_git(text, said_so=False):
        return _git(text, environ, secret_ids)
    parts = _split(text)
    url = _bare(parts)
    return RemoteContext(url, (FetchGrant(url, user=_user(parts), password=_password(parts)),))


def _kaniko_url(text: str, environ: Mapping[str, str]) -> str:
    """A commit beats the ref that it is said to be on."""
    method = environ.get("GIT_PULL_METHOD", "https")
    if method not in ("https", "http"):
        raise ContextError(f"GIT_PULL_METHOD={method[:40]!r} is not supported", hint="https or http")
    place, *names = text.removeprefix(_GIT_SCHEME).split("#", 2)
    reference = next((name for name in reversed(names) if name), "")
    return f"{method}://{place}" + (f"#{reference}" if reference else "")


def _git(text: str, environ: Mapping[str, str], secret_ids: Collection[str]) -> RemoteContext:
    parts = _split(text)
    fragment = f"#{parts.fragment}" if parts.fragment else ""
    query = f"?{parts.query}" if parts.query else ""
    base = _bare(parts._replace(query=""))
    user, password = _user(parts), _password(parts)
    if not user and not password:
        user, password = _from_environment(environ)
    plain = (FetchGrant(f"{base.rstrip('/')}/", user=user, password=password),)
    secrets = _secret_grants(f"{base.rstrip('/')}/", parts.netloc.rpartition("@")[2], secret_ids)
    return RemoteContext(GIT_PREFIX + base + query + fragment, (*plain, *secrets))


def _secret_grants(url: str, host: str, secret_ids: Collection[str]) -> tuple[FetchGrant, ...]:
    """The secrets that log in to one repository: those of its host first, a whole header before a token."""
    names = (f"{GIT_HEADER}.{host}", f"{GIT_TOKEN}.{host}", GIT_HEADER, GIT_TOKEN)
    return tuple(FetchGrant(url, secret_id=name, is_header=name.startswith(GIT_HEADER)) for name in names if name in secret_ids)


def host_grants(secret_ids: Collection[str]) -> tuple[FetchGrant, ...]:
    """Secrets named for a host log in to its repositories, those of ADD as well; where it may be reached is the policy's."""
    found: list[FetchGrant] = []
    for prefix in (GIT_HEADER, GIT_TOKEN):
        for name in secret_ids:
            host = name.removeprefix(f"{prefix}.")
            if host != name and _HOST.fullmatch(host):
                found.append(FetchGrant(f"https://{host}/", opens=False, secret_id=name, is_header=prefix == GIT_HEADER))
    return tuple(found)


def _from_environment(environ: Mapping[str, str]) -> tuple[str, str]:
    """kaniko's variables: a token is a user's name without a password, and beats the other two."""
    if environ.get("GIT_TOKEN"):
        return environ["GIT_TOKEN"], ""
    return environ.get("GIT_USERNAME", ""), environ.get("GIT_PASSWORD", "")


def _split(text: str) -> SplitResult:
    """Raises ContextError, which never repeats what might be a password."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ContextError("the context's URL is malformed") from error
    plain = text.isascii() and text.isprintable() and " " not in text and "\\" not in text
    if not plain or not parts.hostname or port == 0 or parts.netloc.count("@") > 1:
        raise ContextError("the context's URL is malformed")
    return parts


def _bare(parts: SplitResult) -> str:
    """The URL without user information and fragment."""
    return urlunsplit(parts._replace(scheme=parts.scheme.lower(), netloc=parts.netloc.rpartition("@")[2], fragment=""))


def _user(parts: SplitResult) -> str:
    return unquote(parts.username or "")


def _password(parts: SplitResult) -> str:
    return unquote(parts.password or "")
