"""A world for whole builds: dnsmasq as the one resolver of the host, servers behind its names, and the command in that world.

The command runs in a mount namespace of its own whose /etc/resolv.conf names the resolver, so that gateways find names which
nobody else knows. dnsmasq's log of queries, and what the servers saw, are oracles that no build can touch.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandboxbuild.protocol.dns import A, write_query
from tests.support.builder import Builder
from tests.support.world import World, own_address, world


class Resolver:
    """dnsmasq on a loopback address; `table` may be changed by rewriting it with use()."""

    def __init__(self, folder: Path, address: str = "") -> None:
        self.folder = folder
        self.address = address or own_address()
        self._log = folder / "queries.log"
        self._hosts = folder / "hosts"
        self._hosts.write_text("")
        self._forgotten = 0
        (folder / "resolv.conf").write_text(f"nameserver {self.address}\noptions timeout:2 attempts:1\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = shutil.which("dnsmasq", path="/usr/sbin:/usr/bin")
        if program is None:
            pytest.fail("dnsmasq isn't installed: see tests/debian-packages.txt")
        self._process = subprocess.Popen(
            [
                *(program, "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces"),
                *(f"--listen-address={self.address}", f"--addn-hosts={self._hosts}", "--local=/#/", "--log-queries"),
                *(f"--log-facility={self._log}", f"--pid-file={self.folder / 'dnsmasq.pid'}", "--user=root"),
            ]
        )
        self._await()

    def _await(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
            channel.settimeout(0.2)
            for _ in range(50):
                try:
                    channel.sendto(write_query(1, "ready.example.com", A), (self.address, 53))
                    channel.recv(512)
                    return
                except OSError:
                    time.sleep(0.05)
        raise AssertionError("dnsmasq doesn't answer")

    def use(self, **names: str) -> None:
        """Addresses by name, with _ for each dot."""
        self.table({name.replace("_", "."): address for name, address in names.items()})

    def table(self, names: dict[str, str]) -> None:
        assert self._process is not None, "start() comes first"
        self._hosts.write_text("".join(f"{address} {name}\n" for name, address in names.items()))
        self._process.send_signal(signal.SIGHUP)
        time.sleep(0.2)

    def forget(self) -> None:
        """Leave out of queries() what was asked for so far."""
        self._forgotten = len(self._lines())

    def _lines(self) -> list[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []

    def queries(self) -> list[str]:
        """The names that it was asked for."""
        lines = self._lines()[self._forgotten :]
        return [line.split("] ")[1].split()[0] for line in lines if " query[" in line and "] " in line]

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)


class OutsideBuilder(Builder):
    """The command where the resolver is the only one."""

    def __init__(self, folder: Path, resolver: Resolver) -> None:
        super().__init__(folder)
        self._resolver = resolver

    def argv(self, *arguments: str | Path) -> list[str]:
        swap = 'mount --bind "$0" "$(readlink -f /etc/resolv.conf)" && exec "$@"'
        inner = super().argv(*arguments)
        return ["unshare", "--mount", "sh", "-c", swap, str(self._resolver.folder / "resolv.conf"), *inner]


class Outside:
    """All of it: `builder` runs builds, `world` and `resolver` saw what they did. `base` is a busybox in a registry."""

    def __init__(self, folder: Path, made: World, resolver: Resolver) -> None:
        self.folder = folder
        self.world = made
        self.resolver = resolver
        self.builder = OutsideBuilder(folder, resolver)

    def policy(self, text: str, name: str = "policy.toml") -> Path:
        path = self.folder / name
        path.write_text(text)
        return path


@contextmanager
def outside_world(folder: Path, *names: str) -> Iterator[Outside]:
    """Servers on one address for `names`, which the resolver knows, and a builder there."""
    resolver = Resolver(folder)
    resolver.start()
    try:
        with world(folder, *names) as made:
            resolver.table(dict.fromkeys(names, made.address))
            found = Outside(folder, made, resolver)
            yield found
            found.builder.check_nothing_is_left()
            found.builder.remove_store()
    finally:
        resolver.stop()


def pid_of_gateway(of: int) -> int:
    """The gateway below the command with process id `of`."""
    for entry in os.listdir("/proc"):
        if entry.isdigit() and _is_gateway(entry) and descends(int(entry), of):
            return int(entry)
    return 0


def _is_gateway(entry: str) -> bool:
    try:
        return b"sandboxbuild.gateway.main" in Path(f"/proc/{entry}/cmdline").read_bytes()
    except OSError:
        return False


def descends(pid: int, ancestor: int) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False
