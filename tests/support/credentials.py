"""Registries that tell what they were shown, a gateway that knows a credential, and what is looked for in what they got."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from sandboxbuild.errors import RegistryError
from sandboxbuild.oci.descriptor import OCI_LAYER, Descriptor
from sandboxbuild.policy.isolation import RegistryAccess
from sandboxbuild.registry.repository import Repository
from sandboxbuild.registry.retry import Retry, RetryPolicy
from tests.integration.bad_registry import reply
from tests.integration.registry_fixtures import PASSWORD, USER, Sandboxed, gateway_for

BODY = b"layer" * 1000
DIGEST = "sha256:" + hashlib.sha256(BODY).hexdigest()
BLOB = Descriptor(OCI_LAYER, DIGEST, len(BODY))
PAIR = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
TOKEN = "token-canary-77aa01"
NEEDLES = (PASSWORD, PAIR, TOKEN)
MANIFEST = "GET /v2/a/manifests/1"

Mutate = Callable[[dict[str, dict[str, str]]], None]  # mutant_gateway.mutate_gateways, for one test


def holds_a_secret(text: str) -> bool:
    return any(needle in text for needle in NEEDLES)


def auth_file(folder: Path, *hosts: str) -> str:
    path = folder / "config.json"
    path.write_text(json.dumps({"auths": {host: {"auth": PAIR} for host in hosts}}))
    return str(path)


@contextlib.contextmanager
def knowing(folder: Path, *hosts: str, **settings: Any) -> Iterator[Sandboxed]:
    """A gateway with the credential of `hosts`, for a build that pulls everything and pushes a:1 to the first of them."""
    access = RegistryAccess(pull=("**",), pushes=(f"{hosts[0]}/a:1",))
    with gateway_for(folder, registries=access, auth_file=auth_file(folder, *hosts), **settings) as made:
        yield made


def repository(sandboxed: Sandboxed, host: str) -> Repository:
    return Repository(sandboxed.transport, host, "a", retry=Retry(RetryPolicy(attempts=2, base_s=0.01)))


def ask_manifest(sandboxed: Sandboxed, host: str) -> None:
    with contextlib.suppress(RegistryError):
        repository(sandboxed, host).get_manifest("1")


def wants_basic(handler: BaseHTTPRequestHandler) -> bool:
    """Ask for basic auth unless it is there; True if it was."""
    if handler.headers.get("authorization") == f"Basic {PAIR}":
        return True
    reply(401, b"{}", WWW_Authenticate='Basic realm="x"')(handler)
    return False
