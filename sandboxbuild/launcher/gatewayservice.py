"""A gateway that runs by itself, for sandboxes that are started elsewhere: TCP, a token, one set of rules, until a signal."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from typing import Final

from sandboxbuild.errors import InputError, SandboxbuildError, UsageError
from sandboxbuild.gateway.process import Gateway
from sandboxbuild.launcher.auditing import AuditTrail
from sandboxbuild.launcher.gatewayconfig import gateway_config
from sandboxbuild.launcher.policies import resolve_policy
from sandboxbuild.launcher.request import image_names
from sandboxbuild.launcher.settings import BuildSettings

TOKEN_MINIMUM: Final = 32
TOKEN_LIMIT_BYTES: Final = 4096
WATCH_S: Final = 0.5
_ENDINGS: Final = frozenset({signal.SIGINT, signal.SIGTERM})


def read_token(path: str) -> str:
    """The first line of a file that its owner alone can read. Raises InputError for others, UsageError for a short token."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        with open(fd, "rb") as stream:
            mode = os.fstat(fd).st_mode
            line = stream.read(TOKEN_LIMIT_BYTES).split(b"\n", 1)[0].strip()
    except OSError as error:
        raise InputError(f"the token's file {path!r} can't be read: {error.strerror}") from error
    if mode & 0o077:
        raise InputError(f"the token's file {path!r} can be read by others than its owner", hint=f"chmod 600 {path}")
    if len(line) < TOKEN_MINIMUM or not line.isalnum():
        raise UsageError(f"a token needs {TOKEN_MINIMUM} letters and digits or more", hint="openssl rand -hex 32 makes one")
    return line.decode("ascii")


def serve_gateway(
    settings: BuildSettings,
    environ: Mapping[str, str],
    *,
    host: str,
    port: int,
    token: str,
    on_ready: Callable[[str], object],
) -> None:
    """Serve until SIGINT or SIGTERM. `on_ready` gets HOST:PORT. `settings` say policy, pushes, registries and the audit log.

    Raises PolicyError for the policy, IsolationError for an address that can't be had, SandboxbuildError when it dies.
    """
    isolation = resolve_policy(settings, environ)
    pushes = image_names(settings.pushes, "--destination")
    config = gateway_config(settings, isolation, build_id="gateway", pulls=(), pushes=pushes, environ=environ)
    trail = AuditTrail(settings.audit_log)
    try:
        with Gateway.start(config._replace(tcp_host=host, tcp_port=port, token=token), trail) as gateway:
            signal.pthread_sigmask(signal.SIG_BLOCK, _ENDINGS)
            on_ready(gateway.address)
            while signal.sigtimedwait(_ENDINGS, WATCH_S) is None:
                if gateway.has_ended():
                    raise SandboxbuildError(f"the gateway ended with status {gateway.status}")
    finally:
        trail.close()
