"""The gateway process: configuration in by standard input, audit records out by standard output, gone when the input ends.

It listens before it has imported what reaches registries; that import runs while the sandbox still starts.
"""

from __future__ import annotations

import hmac
import json
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import BinaryIO, Final

from sandboxbuild.errors import SandboxbuildError
from sandboxbuild.gateway.audit import REFUSE, AuditLog, Record
from sandboxbuild.gateway.builds import build_routes
from sandboxbuild.gateway.config import CONFIG_LIMIT_BYTES, GatewayConfig
from sandboxbuild.gateway.server import Request, Route, Server
from sandboxbuild.gateway.uplink import TcpListener, UnixListener
from sandboxbuild.protocol.codec import decode
from sandboxbuild.protocol.frames import read_frame
from sandboxbuild.registry.uplink import TOKEN_HEADER
from sandboxbuild.system.libc import prctl
from sandboxbuild.system.relay import Relay

REQUEST_SHOWN: Final = 300
_PR_SET_DUMPABLE: Final = 4  # prctl(2)


def main() -> None:
    """Run until standard input ends. A start that fails says why in the first line of output, and ends with its exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is the launcher's, which closes our input when all is done
    harden()
    try:
        config = _read_config(sys.stdin.buffer)
        listener = _listener(config)
        audit = AuditLog(sys.stdout, config.build_id)
        relay = Relay()
        routes = build_routes(config, audit, relay)
    except SandboxbuildError as error:
        _say({"event": "failed", "error": type(error).__name__, "message": error.message, "hint": error.hint})
        os._exit(error.exit_code)
    server = Server(listener, routes_for(config, routes), on_refusal=lambda what, why: audit.write(refusal(what, why)))
    _say({"event": "ready", "address": listener.address})
    threading.Thread(target=server.serve, daemon=True).start()
    while os.read(sys.stdin.fileno(), 65536):
        pass
    server.close()
    relay.close()  # what it still carries is logged
    os._exit(0)


def refusal(request: str, reason: str) -> Record:
    """The record of a request that no route takes."""
    return Record(REFUSE, name=request[:REQUEST_SHOWN], reason=reason)


def harden() -> None:
    """Neither a core file nor a tracer of the same user may see the credentials. As many open files as there may be."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    prctl(_PR_SET_DUMPABLE, 0)


def _read_config(stream: BinaryIO) -> GatewayConfig:
    return decode(read_frame(stream, limit_bytes=CONFIG_LIMIT_BYTES) or b"", (GatewayConfig,))


def _say(message: dict[str, str]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _listener(config: GatewayConfig) -> UnixListener | TcpListener:
    if config.socket_path:
        return UnixListener(config.socket_path, config.socket_uid, config.peer_uids)
    return TcpListener(config.tcp_host, config.tcp_port)


def routes_for(config: GatewayConfig, routes: Sequence[Route]) -> Callable[[Request], Sequence[Route] | None]:
    """Gives the build's routes to who shows its token. A unix socket needs none: having it is proof enough."""
    token = config.token.encode()
    by_socket = bool(config.socket_path) and not token

    def of(request: Request) -> Sequence[Route] | None:
        shown = request.headers.get(TOKEN_HEADER, "").encode("latin-1")
        return routes if by_socket or (token and hmac.compare_digest(shown, token)) else None

    return of
