"""A network namespace as a step has it, with programs run inside, and a StepNetwork that serves it from outside."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from sandboxbuild.executor.listeners import NAMESERVER, RESOLV_CONF, STAND_IN_PREFIX, adopt, listen
from sandboxbuild.executor.network import StepNetwork
from sandboxbuild.executor.tunnel import Gateway
from sandboxbuild.system.channels import Channel, pair
from sandboxbuild.system.netlink import loopback_up

CLONE_NEWNET = 0x40000000
CLONE_NEWNS = 0x00020000


class StepNamespace(NamedTuple):
    """`pid` holds the namespaces open; `network` serves them."""

    pid: int
    network: StepNetwork

    def popen(self, *argv: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """A program inside, with only the environment that is given."""
        return subprocess.Popen(
            ["nsenter", f"--net=/proc/{self.pid}/ns/net", f"--mount=/proc/{self.pid}/ns/mnt", *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **(environment or {})},
        )

    def run(self, *argv: str, environment: Mapping[str, str] | None = None, timeout_s: float = 60) -> tuple[int, str, str]:
        """Status, output and error output."""
        with self.popen(*argv, environment=environment) as process:
            out, log = process.communicate(timeout=timeout_s)
        return process.returncode, out.decode("utf-8", "replace"), log.decode("utf-8", "replace")


@contextmanager
def step_namespace(
    folder: str, gateway: Gateway, ports: Sequence[int], step: str = "1", kind: str = "run"
) -> Iterator[StepNamespace]:
    """Fork a process into new network and mount namespaces, with a resolv.conf of the step's; end it afterwards."""
    ours, theirs = pair()
    resolv = os.path.join(folder, f"resolv-{step}")
    with open(resolv, "w") as target:
        target.write(RESOLV_CONF)
    pid = os.fork()
    if pid == 0:
        ours.close()
        _hold(theirs, tuple(ports), resolv)
    theirs.close()
    try:
        message = ours.receive()
        assert message is not None, "the namespace's process ended at its start"
        with StepNetwork(adopt(message[1]), gateway, step, kind=kind) as network:
            yield StepNamespace(pid, network)
    finally:
        ours.close()
        os.waitpid(pid, 0)


def _hold(channel: Channel, ports: tuple[int, ...], resolv: str) -> None:
    """The child: set up, pass the sockets out, wait for the end. Never returns."""
    try:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET | CLONE_NEWNS):
            raise OSError(ctypes.get_errno(), "unshare")
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["mount", "--bind", resolv, "/etc/resolv.conf"], check=True)
        loopback_up(((NAMESERVER, STAND_IN_PREFIX),))
        sockets = listen(ports)
        channel.send("ready", sockets.descriptors)
        sockets.close()
        channel.receive()
    finally:
        os._exit(0)


def closed_port() -> int:
    """A loopback port on which nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
