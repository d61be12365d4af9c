"""Credentials as docker, podman and CI systems leave them: config files, their helpers, one variable. Read here, kept nowhere.

Which file and entry was used can be said; what stands in it can't.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from sandboxbuild.errors import RegistryError
from sandboxbuild.registry.auth import HUB_NAMES, Credential

FILE_LIMIT_BYTES: Final = 1024 * 1024
HELPER_TIMEOUT_S: Final = 30.0
_HELPER_OUTPUT_LIMIT: Final = 64 * 1024
_KEEP_S: Final = 30.0
_HUB_KEY: Final = "https://index.docker.io/v1/"
_HELPER: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TOKEN_USER: Final = "<token>"  # noqa: S105 - docker-credential-helpers: the password is an identity token
_NOT_FOUND: Final = "credentials not found"


class Place(NamedTuple):
    """A document of credentials: a file, or the text of DOCKER_AUTH_CONFIG."""

    label: str
    path: str = ""
    text: str = ""

    def __repr__(self) -> str:
        return f"Place({self.label!r})"


def places_of(environment: Mapping[str, str], explicit: str = "") -> tuple[Place, ...]:
    """Where credentials may be, first match first: what is named on purpose alone, else the usual places."""
    named = explicit or environment.get("REGISTRY_AUTH_FILE", "")
    if named:
        return (Place(named, named),)
    home = environment.get("HOME", "")
    paths = [
        os.path.join(environment.get("DOCKER_CONFIG") or os.path.join(home, ".docker"), "config.json"),
        os.path.join(environment.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}", "containers/auth.json"),
        os.path.join(environment.get("XDG_CONFIG_HOME") or os.path.join(home, ".config"), "containers/auth.json"),
    ]
    text = environment.get("DOCKER_AUTH_CONFIG", "")
    return (*((Place("DOCKER_AUTH_CONFIG", text=text),) if text else ()), *(Place(path, path) for path in paths))


class ConfiguredCredentials:
    """A CredentialSource over config documents. Thread-safe. Answers are remembered for half a minute."""

    def __init__(self, places: tuple[Place, ...]) -> None:
        self._places = places
        self._known: dict[tuple[str, str], tuple[float, Credential | None]] = {}
        self._lock = threading.Lock()

    def find(self, host: str, repository: str) -> Credential | None:
        """Raises RegistryError for a document that can't be understood and a helper that fails."""
        with self._lock:
            asked_at, credential = self._known.get((host, repository), (float("-inf"), None))
            if time.monotonic() - asked_at < _KEEP_S:
                return credential
            credential = self._look_up(host, repository)
            self._known[host, repository] = (time.monotonic(), credential)
            return credential

    def _look_up(self, host: str, repository: str) -> Credential | None:
        for place in self._places:
            document = read_document(place)
            credential = find_in(document, place.label, host, repository) if document else None
            if credential is not None:
                return credential
        return None


def read_document(place: Place) -> Mapping[str, Any] | None:
    """The document, None where there is none. Raises RegistryError for one that is too large or no JSON object."""
    content = place.text.encode()
    if place.path:
        try:
            with open(place.path, "rb") as file:
                content = file.read(FILE_LIMIT_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise RegistryError(f"the credentials in {place.label} can't be read: {error.strerror}") from error
    try:
        document = json.loads(content) if len(content) <= FILE_LIMIT_BYTES else None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise RegistryError(f"the credentials in {place.label} are no JSON object of at most {FILE_LIMIT_BYTES} bytes")
    return document


def find_in(document: Mapping[str, Any], label: str, host: str, repository: str) -> Credential | None:
    """The credential that a document has for a repository: a helper's, else the entry with the longest matching path."""
    helper, server = _helper_for(document, host)
    if helper:
        credential = ask_helper(helper, server, label)
        if credential is not None:
            return credential
    auths = document.get("auths")
    entries = {_normal(key): (key, value) for key, value in auths.items()} if isinstance(auths, dict) else {}
    for scope in _scopes(host, repository):
        key, entry = entries.get(scope, ("", None))
        credential = _credential(entry, f"{label}, entry {key}") if isinstance(entry, dict) else None
        if credential is not None:
            return credential
    return None


def _helper_for(document: Mapping[str, Any], host: str) -> tuple[str, str]:
    """The helper's name and what it calls the registry."""
    helpers = document.get("credHelpers")
    for key, name in helpers.items() if isinstance(helpers, dict) else ():
        if _normal(key) == _normal(host) and isinstance(name, str):
            return name, key if _normal(host) != "docker.io" else _HUB_KEY
    store = document.get("credsStore")
    return (store if isinstance(store, str) else ""), _HUB_KEY if _normal(host) == "docker.io" else host


def _scopes(host: str, repository: str) -> list[str]:
    """ "host/team/app", "host/team", "host": containers-auth.json(5), longest first."""
    parts = repository.split("/") if repository else []
    paths = ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]
    return [*(f"{_normal(host)}/{path}" for path in paths), _normal(host)]


def _normal(key: str) -> str:
    """An entry's key without scheme, API version and closing slash; the Hub by its one name."""
    bare = re.sub(r"^https?://", "", key.strip()).rstrip("/")
    host, _, path = bare.partition("/")
    host = "docker.io" if host.lower() in HUB_NAMES else host.lower()
    return host if path in ("", "v1", "v2") else f"{host}/{path}"


def _credential(entry: Mapping[str, Any], origin: str) -> Credential | None:
    """None for an entry that says nothing, as docker leaves where a helper has the secret."""
    identity, registry = _text(entry, "identitytoken"), _text(entry, "registrytoken")
    username, password = _text(entry, "username"), _text(entry, "password")
    if _text(entry, "auth"):
        try:
            decoded = base64.b64decode(_text(entry, "auth"), validate=True).decode()
        except (binascii.Error, ValueError) as error:
            raise RegistryError(f"{origin}: the field auth is not base64") from error
        username, colon, password = decoded.partition(":")
        if not colon:
            raise RegistryError(f"{origin}: the field auth holds no colon")
        password = password.rstrip("\0")
    if not (username or identity or registry):
        return None
    return Credential(origin, username, password, identity, registry)


def _text(entry: Mapping[str, Any], name: str) -> str:
    value = entry.get(name)
    return value if isinstance(value, str) else ""


def ask_helper(name: str, server: str, label: str) -> Credential | None:
    """What docker-credential-NAME has for a server (docker-credential-helpers, "get"). Raises RegistryError if it fails."""
    if not _HELPER.fullmatch(name):
        raise RegistryError(f"{label} names a credential helper that can't be one: {name[:64]!r}")
    program = f"docker-credential-{name}"
    try:
        status, output = _run_helper(program, server)
    except OSError as error:
        raise RegistryError(f"{program}, named in {label}, failed: {error.strerror}") from error
    if status:
        if _NOT_FOUND in output.decode("utf-8", "replace").lower():
            return None
        raise RegistryError(f"{program}, named in {label}, ended with status {status}")
    return _helper_answer(output, f"{label}, helper {program}")


def _run_helper(program: str, server: str) -> tuple[int, bytes]:
    """A helper's exit status and output; one that takes or says too much is killed."""
    with subprocess.Popen(
        [program, "get"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None and process.stdout is not None, "both are pipes"
        timer = threading.Timer(HELPER_TIMEOUT_S, process.kill)
        timer.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # a helper may answer without reading
                process.stdin.write(server.encode())
                process.stdin.close()
            output = process.stdout.read(_HELPER_OUTPUT_LIMIT + 1)
            if len(output) > _HELPER_OUTPUT_LIMIT:
                process.kill()
            return process.wait(), output
        finally:
            timer.cancel()


def _helper_answer(output: bytes, origin: str) -> Credential | None:
    try:
        answer = json.loads(output) if len(output) <= _HELPER_OUTPUT_LIMIT else None
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise RegistryError(f"{origin} answered with something else than a JSON object")
    username, secret = _text(answer, "Username"), _text(answer, "Secret")
    if not secret:
        return None
    if username == _TOKEN_USER:
        return Credential(origin, identity_token=secret)
    return Credential(origin, username, secret)
