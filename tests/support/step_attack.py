"""One step's network by itself, to be attacked: a namespace, its StepNetwork, and a gateway in this process with some rules."""

from __future__ import annotations

import time
from pathlib import Path

from sandboxbuild.executor.proxy import proxy_environment
from sandboxbuild.gateway.audit import CONNECT
from sandboxbuild.policy.isolation import Allow, NetworkRules
from tests.support.small_gateway import SmallGateway
from tests.support.step_namespace import StepNamespace, step_namespace
from tests.support.world import Names, World

NAME, OTHER = "files.example.com", "other.example.com"
PORTS = (80, 443, 2222, 8080)
RULES = NetworkRules(run=(Allow(NAME, PORTS),), ranges=("127.0.0.0/8",))
OPEN = NetworkRules(run=(Allow(NAME, PORTS), Allow(OTHER, PORTS)), ranges=("127.0.0.0/8",))
UNREAD = RULES._replace(run=(Allow(NAME, PORTS, inspect=False),))
PROXY = dict(proxy_environment())
PYTHON = "/usr/bin/python3"


class Attack:
    """One step under some rules."""

    def __init__(self, folder: Path, outside: World, rules: NetworkRules = RULES, names: Names | None = None) -> None:
        self.names = names or Names({NAME: [outside.address], OTHER: [outside.address]})
        folder = folder / f"attack-{time.monotonic_ns()}"
        folder.mkdir()
        self.gateway = SmallGateway(folder, rules, self.names)
        self._namespace = step_namespace(str(folder), self.gateway.uplink, PORTS)
        self.step: StepNamespace

    def __enter__(self) -> Attack:
        self.gateway.__enter__()
        self.step = self._namespace.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._namespace.__exit__(None, None, None)
        self.gateway.__exit__()

    def python(self, script: str) -> tuple[int, str, str]:
        return self.step.run(PYTHON, "-c", "import socket\n" + script)

    def curl(self, *arguments: str, proxied: bool = False) -> int:
        return self.step.run("curl", "-sS", "-m", "5", *arguments, environment=PROXY if proxied else {})[0]

    def reached(self) -> list[str]:
        time.sleep(0.1)
        return [f"{record.name}:{record.port}" for record in self.gateway.audit.records() if record.kind == CONNECT]


def tell_proxy(attack: Attack, text: str) -> str:
    """What the proxy answers to raw bytes; | stands for CRLF."""
    request = text.replace("|", "\r\n").replace("\\n", "\n").replace("\\t", "\t").encode()
    script = (
        f"s = socket.create_connection(('127.0.0.1', 3128)); s.sendall({request!r}); s.settimeout(3)\n"
        "data = b''\n"
        "try:\n"
        "    s.shutdown(socket.SHUT_WR)\n"
        "    while chunk := s.recv(65536): data += chunk\n"
        "except OSError: pass\n"
        "print(data.decode('latin-1'))\n"
    )
    return attack.python(script)[1]
