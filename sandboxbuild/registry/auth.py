"""Who is told a registry's credential: challenges, tokens and their age. The gateway's and launcher's side alone.

A credential goes to the registry that it is for, and to the token server that may have it (docs/decisions: foreign realms).
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Protocol
from urllib.parse import urlencode, urlsplit

from sandboxbuild.errors import RegistryError
from sandboxbuild.registry.addresses import is_loopback_host
from sandboxbuild.registry.failures import quoted

HEADER_LIMIT: Final = 16 * 1024
TOKEN_LIMIT: Final = 64 * 1024
DEFAULT_LIFE_S: Final = 60.0  # Docker registry auth, "expires_in"
_EARLY_S: Final = 10.0
_TOKENS_LIMIT: Final = 256
CLIENT_ID: Final = "sandboxbuild"

# Token servers that a registry is known to share its accounts with.
_KNOWN_REALMS: Final = {"docker.io": ("auth.docker.io",)}
HUB_NAMES: Final = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})

_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
_SCHEME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_PARAMETER: Final = re.compile(
    r"""([A-Za-z0-9!#$%&'*+.^_`|~-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([A-Za-z0-9!#$%&'*+.^_`|~/:-]+))"""
)


class Credential(NamedTuple):
    """What a registry knows a user by: name and password, or a token. `origin` says where it was found, for people."""

    origin: str
    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""

    def __repr__(self) -> str:
        return f"Credential({self.origin!r})"


class CredentialSource(Protocol):
    """Looks credentials up. Thread-safe. Raises RegistryError when a place that should have one can't be read."""

    def find(self, host: str, repository: str) -> Credential | None: ...


class Challenge(NamedTuple):
    """One challenge of a WWW-Authenticate header; `scheme` and the names of `parameters` are lower case."""

    scheme: str
    parameters: Mapping[str, str]


class Origin(NamedTuple):
    """Where requests to a registry really go. Two URLs are of the same party only if all three are equal."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        default = 443 if self.scheme == "https" else 80
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == default else f":{self.port}")


class Token(NamedTuple):
    value: str
    expires_at: float

    def __repr__(self) -> str:
        return f"Token(expires_at={self.expires_at})"


# (the registry's origin, method, url, headers, body) -> (status, body)
Fetch = Callable[[Origin, str, str, Mapping[str, str], bytes | None], tuple[int, bytes]]


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """The challenges in order (RFC 9110, 11.6.1). What can't be read ends the list; it never raises."""
    challenges: list[Challenge] = []
    rest = header[:HEADER_LIMIT].strip()
    while rest and len(challenges) < 8:
        scheme = _SCHEME.match(rest)
        if scheme is None:
            break
        parameters, rest = _parse_parameters(rest[scheme.end() :].lstrip())
        challenges.append(Challenge(scheme[0].lower(), parameters))
    return tuple(challenges)


def _parse_parameters(rest: str) -> tuple[dict[str, str], str]:
    parameters: dict[str, str] = {}
    while rest and len(parameters) < 16:
        match = _PARAMETER.match(rest)
        if match is None:
            break
        value = match[3] if match[3] is not None else re.sub(r"\\(.)", r"\1", match[2])
        parameters.setdefault(match[1].lower(), value)
        rest = rest[match.end() :].lstrip(" \t,")
    return parameters, rest.lstrip(" \t,")


def origin_of(url: str) -> Origin:
    """Raises RegistryError for a URL that isn't plain http(s), or that has user information or a fragment."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise RegistryError(f"not a URL: {quoted(url)}") from error
    plain = url.isascii() and url.isprintable() and " " not in url and "\\" not in url
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.fragment or not plain:
        raise RegistryError(f"not a URL that a registry may name: {quoted(url)}")
    return Origin(parts.scheme, parts.hostname, port if port is not None else 443 if parts.scheme == "https" else 80)


def may_have_credential(registry: str, origin: Origin, realm: Origin, allowed: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether the token server `realm` may be told the credential of `registry` (host[:port] as in references).

    Its own host may; so may one that it is known to share accounts with, and one that the operator named. Raises
    RegistryError where the realm's connection would be less private than the registry's own.
    """
    if realm.scheme != "https" and not (origin.scheme == "http" and _as_local(origin.host, realm.host)):
        raise RegistryError(
            f"registry {registry} sends for tokens to {realm}, which is not https", hint="tokens are fetched over https only"
        )
    if realm.host == origin.host:
        return True
    key = "docker.io" if registry in HUB_NAMES else registry
    named = {*_KNOWN_REALMS.get(key, ()), *allowed.get(key, ())}
    return bool(named & {realm.host, f"{realm.host}:{realm.port}"})


def _as_local(registry_host: str, realm_host: str) -> bool:
    return realm_host == registry_host or (is_loopback_host(registry_host) and is_loopback_host(realm_host))


class Authenticator:
    """Authorization headers for requests to registries. Thread-safe. `realms` are the operator's: registry -> token servers."""

    def __init__(
        self,
        credentials: CredentialSource,
        fetch: Fetch,
        realms: Mapping[str, tuple[str, ...]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._credentials = credentials
        self._fetch = fetch
        self._realms = realms
        self._clock = clock
        self._challenges: dict[Origin, Challenge] = {}
        self._tokens: dict[tuple[str, str, tuple[str, ...]], Token] = {}
        self._withheld: dict[str, str] = {}
        self._lock = threading.Lock()

    def learn(self, origin: Origin, header: str) -> None:
        """Remember how `origin` wants to be asked; Bearer before Basic."""
        offered = {challenge.scheme: challenge for challenge in reversed(parse_challenges(header))}
        chosen = offered.get("bearer") or offered.get("basic")
        if chosen is not None:
            with self._lock:
                self._challenges[origin] = chosen

    def header(
        self, registry: str, origin: Origin, repository: str, scopes: tuple[str, ...], refused: str | None = None
    ) -> str | None:
        """The Authorization for a request to `registry` at `origin`; None while it hasn't asked for any, or we have none.

        `refused` is a value that was just refused: it isn't given again if it was a token.
        """
        challenge = self._challenges.get(origin)
        if challenge is None:
            return None
        credential = self._credentials.find(registry, repository)
        if credential is not None and credential.registry_token:
            return f"Bearer {credential.registry_token}"
        if challenge.scheme == "basic":
            return basic(credential) if credential is not None and credential.username else None
        return self._bearer(registry, origin, challenge, credential, (repository, scopes), refused)

    def explain(self, registry: str, repository: str) -> str:
        """Which credential is used for a registry, or why none; for an error's hint. Never the secret."""
        if registry in self._withheld:
            realm = self._withheld[registry]
            return f"the credential was not sent to {realm}; allow it with --registry-auth-realm {registry}={realm}"
        credential = self._credentials.find(registry, repository)
        return f"used the credential of {credential.origin}" if credential else f"no credential for {registry} was found"

    def _bearer(
        self,
        registry: str,
        origin: Origin,
        challenge: Challenge,
        credential: Credential | None,
        target: tuple[str, tuple[str, ...]],
        refused: str | None,
    ) -> str | None:
        key = (registry, *target)
        with self._lock:
            token = self._tokens.get(key)
        if token is None or token.expires_at - _EARLY_S <= self._clock() or f"Bearer {token.value}" == refused:
            token = self._new_token(registry, origin, challenge, credential, target[1])
            with self._lock:
                if len(self._tokens) >= _TOKENS_LIMIT:
                    self._tokens.clear()
                self._tokens[key] = token
        return f"Bearer {token.value}"

    def _new_token(
        self, registry: str, origin: Origin, challenge: Challenge, credential: Credential | None, scopes: tuple[str, ...]
    ) -> Token:
        realm = challenge.parameters.get("realm", "")
        audience = origin_of(realm)
        if credential is not None and not may_have_credential(registry, origin, audience, self._realms):
            self._withheld[registry] = audience.host
            credential = None
        elif credential is None:
            may_have_credential(registry, origin, audience, self._realms)
        asked_at = self._clock()
        status, body = self._fetch(origin, *_token_request(realm, challenge.parameters.get("service", ""), scopes, credential))
        if status != 200:
            raise RegistryError(
                f"registry {registry}: the token server {audience} answered {status}",
                status=status,
                hint=self.explain(registry, _repository_of(scopes)),
            )
        return parse_token(body, asked_at)


def _token_request(
    realm: str, service: str, scopes: tuple[str, ...], credential: Credential | None
) -> tuple[str, str, dict[str, str], bytes | None]:
    """GET with Basic, or POST with the refresh token (Docker registry auth, token and OAuth2 forms)."""
    if credential is not None and credential.identity_token:
        form = {"grant_type": "refresh_token", "service": service, "client_id": CLIENT_ID, "scope": " ".join(scopes)}
        body = urlencode({**form, "refresh_token": credential.identity_token}).encode()
        return "POST", realm, {"Content-Type": "application/x-www-form-urlencoded"}, body
    pairs = ([("service", service)] if service else []) + [("scope", scope) for scope in scopes]
    url = realm + ("&" if "?" in realm else "?") + urlencode(pairs) if pairs else realm
    headers = {"Authorization": basic(credential)} if credential is not None and credential.username else {}
    return "GET", url, headers, None


def basic(credential: Credential) -> str:
    pair = f"{credential.username}:{credential.password}".encode()
    return "Basic " + base64.b64encode(pair).decode("ascii")


def parse_token(body: bytes, asked_at: float) -> Token:
    """The token in a token server's answer. Raises RegistryError, and never quotes the answer: it may hold one."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    fields = document if isinstance(document, dict) else {}
    value = fields.get("token") or fields.get("access_token")
    if not isinstance(value, str) or len(value) > TOKEN_LIMIT or not _TOKEN.fullmatch(value):
        raise RegistryError("a token server's answer holds no usable token")
    life = fields.get("expires_in")
    seconds = (
        float(life) if isinstance(life, (int, float)) and not isinstance(life, bool) and 0 < life < 1e7 else DEFAULT_LIFE_S
    )
    return Token(value, asked_at + max(seconds, _EARLY_S * 2))


def _repository_of(scopes: tuple[str, ...]) -> str:
    return scopes[0].split(":")[1] if scopes else ""
