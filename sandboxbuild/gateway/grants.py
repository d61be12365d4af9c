"""What the operator named himself on the command line and may be fetched: registries on loopback, contexts, git hosts.

A grant is a URL, not a host: what lies beside a context that was named isn't granted with it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from sandboxbuild.gateway.config import FetchGrant
from sandboxbuild.registry.addresses import is_loopback_host

GIT_QUERY: Final = "service=git-upload-pack"
GIT_POST_SUFFIX: Final = "/git-upload-pack"
TOKEN_USER: Final = "x-access-token"  # noqa: S105 - the name under which forges take tokens; BuildKit sends it as well


class Granted(NamedTuple):
    """`opens` says that the address rules of [network] don't apply, `loopback` that loopback may be gone to."""

    opens: bool = False
    loopback: bool = False
    authorization: str = ""


class Grants:
    """The grants of one build. `read_secret` gives a secret's value, b"" where it can't be read."""

    def __init__(self, grants: Sequence[FetchGrant] = (), read_secret: Callable[[str], bytes] = lambda _id: b"") -> None:
        self._grants = tuple(grants)
        self._read_secret = read_secret

    def find(self, url: str) -> Granted:
        """What holds for a request to `url`, a plain http(s) URL: whether a grant opens it, and the first credential."""
        fitting = [grant for grant in self._grants if covers(grant.url, url)]
        host = urlsplit(url).hostname or ""
        loopback = is_loopback_host(host)
        opens = any(grant.opens for grant in fitting)
        authorization = ""
        if url.startswith("https://") or loopback:  # a credential never goes over a line that others can read
            authorization = next(filter(None, (self._authorization(grant, url) for grant in fitting)), "")
        return Granted(opens, opens and loopback, authorization)

    def _authorization(self, grant: FetchGrant, url: str) -> str:
        if grant.secret_id and is_git_request(url):
            value = self._read_secret(grant.secret_id).decode("utf-8", "replace").strip()
            return value if not value or grant.is_header else basic(TOKEN_USER, value)
        if grant.user or grant.password:
            return basic(grant.user, grant.password)
        return ""


def basic(user: str, password: str) -> str:
    """RFC 7617."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")


def is_git_request(url: str) -> bool:
    """Whether a URL is one of the two that a clone over smart HTTP needs (gitprotocol-http)."""
    parts = urlsplit(url)
    return parts.path.endswith(GIT_POST_SUFFIX) or (parts.path.endswith("/info/refs") and parts.query == GIT_QUERY)


def covers(granted: str, url: str) -> bool:
    """Whether `url` is the granted one, or lies below it where that ends with a slash. Dots that climb cover nothing."""
    if url == granted:
        return True
    if not granted.endswith("/") or not url.startswith(granted):
        return False
    path = unquote(urlsplit(url).path).replace("\\", "/")
    return ".." not in path.split("/")
