"""A network namespace of a test's own: loopback with the addresses that the test needs, and no way to the machine's network.

So a test may have a server at a metadata address, or a gateway without its defences, and nothing can leave.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from typing import TypeVar

_CLONE_NEWNET = 0x40000000  # setns(2)
_T = TypeVar("_T")


class OwnNetwork:
    """A context manager; `addresses` (with prefix lengths) are added to the loopback device."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses

    def __enter__(self) -> OwnNetwork:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo; exec cat"], stdout=subprocess.PIPE, stdin=subprocess.PIPE
        )  # ends with this process, however that ends
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"\n"
        assert os.readlink(f"/proc/{self._holder.pid}/ns/net") != os.readlink("/proc/self/ns/net")
        self.run("ip", "link", "set", "lo", "up")
        for address in self._addresses:
            self.run("ip", "address", "add", address, "dev", "lo")
        return self

    def __exit__(self, *_: object) -> None:
        self._holder.kill()
        self._holder.communicate()

    def argv(self, *command: str) -> list[str]:
        """The command that runs `command` here."""
        return ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net", *command]

    def run(self, *command: str) -> str:
        return subprocess.run(self.argv(*command), check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout

    def call(self, function: Callable[[], _T]) -> _T:
        """Call `function` in a thread that has joined: the sockets that it opens, and the programs that it starts, are here."""
        results: list[_T] = []
        faults: list[BaseException] = []

        def work() -> None:
            try:
                join(f"/proc/{self._holder.pid}/ns/net")
                results.append(function())
            except BaseException as error:
                faults.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if faults:
            raise faults[0]
        return results[0]


def join(path: str) -> None:
    """setns(2) for the calling thread alone."""
    with open(path, "rb") as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {path}")


class Ear:
    """A bound socket that keeps what it hears, in a thread of its own; connections are answered. close() ends it."""

    def __init__(self, opened: socket.socket) -> None:
        self.socket = opened
        self.heard: list[bytes] = []
        self._closing = False
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        self.socket.settimeout(0.1)
        while not self._closing:
            try:
                self._hear()
            except OSError:
                continue

    def _hear(self) -> None:
        if self.socket.type != socket.SOCK_STREAM:
            self.heard.append(self.socket.recv(65536))
            return
        connection, _ = self.socket.accept()
        with connection:
            connection.settimeout(2)
            self.heard.append(connection.recv(65536))
            connection.sendall(b"heard")

    def close(self) -> None:
        self._closing = True
        self._thread.join()
        self.socket.close()
