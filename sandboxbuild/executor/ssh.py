"""ssh agents in steps: a unix socket of the step's own, whose connections are carried to the gateway while the step runs.

The agent itself stays outside, and the gateway lets through only what asks for keys and signatures.
"""

from __future__ import annotations

import os
import select
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sandboxbuild.errors import RegistryError
from sandboxbuild.plan.operations import SshMount
from sandboxbuild.registry.uplink import Uplink
from sandboxbuild.system.relay import Relay

SOCKET_NAME: Final = "agent"
_BACKLOG: Final = 16
_OPEN_AT_ONCE: Final = 16


@contextmanager
def agent_socket(uplink: Uplink, mount: SshMount, step: str) -> Iterator[str]:
    """The path of a socket that leads to the agent `mount.ssh_id`, with the mount's owner and mode; gone with the block."""
    with tempfile.TemporaryDirectory(prefix="ssh-") as folder, Relay(f"ssh-{step}") as relay:
        path = os.path.join(folder, SOCKET_NAME)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as listener:
            listener.bind(path)
            os.chown(path, mount.uid, mount.gid)
            os.chmod(path, mount.mode)
            listener.listen(_BACKLOG)
            with _serving(listener, _Agent(uplink, mount.ssh_id, step, relay)):
                yield path


class _Agent:
    """Carries the connections of one socket."""

    def __init__(self, uplink: Uplink, ssh_id: str, step: str, relay: Relay) -> None:
        self._uplink = uplink
        self._target = f"/v1/ssh/{ssh_id}"
        self._step = step
        self._relay = relay
        self._opening = threading.Semaphore(_OPEN_AT_ONCE)

    def take(self, client: socket.socket) -> None:
        """Carry a connection, on a thread of its own until it is the relay's."""
        if not self._opening.acquire(blocking=False):
            client.close()
            return
        threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        try:
            far, early = self._uplink.tunnel(self._target, {"sandboxbuild-step": self._step})
            self._relay.add(client, far, _Unwatched(), early_reply=early)
        except (RegistryError, OSError, RuntimeError):
            client.close()  # a client of an agent knows no errors but the connection's end
        finally:
            self._opening.release()


class _Unwatched:
    """A relay's Watcher that wants to know nothing."""

    def moved(self, sent: int, received: int) -> str:  # noqa: ARG002
        return ""

    def closed(self, reason: str) -> None:
        pass


@contextmanager
def _serving(listener: socket.socket, agent: _Agent) -> Iterator[None]:
    """Accept on a thread until the block ends."""
    halt_read, halt_write = os.pipe()

    def serve() -> None:
        poll = select.poll()
        poll.register(halt_read, select.POLLIN)
        poll.register(listener, select.POLLIN)
        while all(fd != halt_read for fd, _ in poll.poll()):
            try:
                agent.take(listener.accept()[0])
            except OSError:
                continue

    listener.setblocking(False)
    thread = threading.Thread(target=serve, name="ssh-agent", daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.close(halt_write)
        thread.join()
        os.close(halt_read)
