"""`sandboxbuild gateway serve`: a gateway by itself, for sandboxes that this host doesn't start."""

from __future__ import annotations

import os
import sys
from typing import Any, Final

import click

from sandboxbuild.cli.flags import TableCommand
from sandboxbuild.cli.options import ISOLATION_FLAGS, REGISTRY_FLAGS, Flag, Kind
from sandboxbuild.errors import UsageError

_SHARED: Final = frozenset({"--profile", "--policy-file", "--allow-host", "--audit-log"})
SERVE_FLAGS: Final = (
    Flag("--listen", Kind.TEXT, "Where to listen; port 0 is any", "HOST:PORT", group="Options", default="127.0.0.1:0"),
    Flag("--token-file", Kind.TEXT, "A file with the token that each request has to show", "FILE", group="Options"),
    Flag("--destination", Kind.LIST, "A name that may be pushed", "NAME[:TAG]", short="-d", group="Options"),
    *(flag._replace(group="Options") for flag in ISOLATION_FLAGS if flag.name in _SHARED),
    *REGISTRY_FLAGS,
)


@click.group()
def gateway() -> None:
    """Run a gateway by itself.

    `serve` listens on TCP for a sandbox that was started elsewhere, under one policy, until SIGINT or SIGTERM ends it. It
    prints HOST:PORT once it listens. What may be pulled has to be in the policy's [registries] pull: there is no Dockerfile.
    """


@gateway.command(cls=TableCommand, flags=SERVE_FLAGS)
def serve(**values: Any) -> None:
    """Listen on TCP and serve those who show the token."""
    from sandboxbuild.cli.settings import registry_settings
    from sandboxbuild.launcher.gatewayservice import read_token, serve_gateway
    from sandboxbuild.launcher.settings import BuildSettings

    host, port = _address(values["listen"] or "127.0.0.1:0")
    if not values["token_file"]:
        raise UsageError("a gateway on TCP needs a token", hint="--token-file FILE; openssl rand -hex 32 makes one")
    settings = BuildSettings(
        profile=values["profile"] or "plain",
        policy_file=values["policy_file"] or "",
        allow_hosts=tuple(values["allow_host"]),
        audit_log=values["audit_log"] or "",
        pushes=tuple(values["destination"]),
        registries=registry_settings(values),
    )
    token = read_token(values["token_file"])
    serve_gateway(settings, os.environ, host=host, port=port, token=token, on_ready=_say)


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"--listen {text!r} is no HOST:PORT")
    return host.strip("[]"), int(port)


def _say(address: str) -> None:
    sys.stdout.write(f"{address}\n")
    sys.stdout.flush()
