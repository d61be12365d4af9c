"""A gateway that is killed while a blob is half sent: one clear error, nothing left behind, and the next build can push."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.registry_fixtures import RunningRegistry, running_registry
from tests.support.builder import Builder, run_tool, wait_until
from tests.support.outside import pid_of_gateway

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

BLOB_BYTES = 12 * 1024 * 1024
HELD_AT_BYTES = 4 * 1024 * 1024


class SlowWay:
    """Carries connections to a registry, and holds them once HELD_AT_BYTES have gone there, until it is told to go on."""

    def __init__(self, target: str) -> None:
        host, _, port = target.partition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.carried_bytes = 0
        self.is_held = threading.Event()
        self.go_on = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self.go_on.set()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            threading.Thread(target=self._carry, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._carry, args=(server, client, False), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, upwards: bool) -> None:
        try:
            while chunk := source.recv(65536):
                if upwards:
                    self._count(len(chunk))
                sink.sendall(chunk)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            sink.close()

    def _count(self, size_bytes: int) -> None:
        self.carried_bytes += size_bytes
        if self.carried_bytes > HELD_AT_BYTES and not self.go_on.is_set():
            self.is_held.set()
            self.go_on.wait()


@contextmanager
def slow_registry(folder: Path) -> Iterator[tuple[RunningRegistry, SlowWay]]:
    with running_registry(folder) as registry:
        way = SlowWay(registry.host)
        try:
            yield registry, way
        finally:
            way.close()


def test_a_gateway_killed_in_an_upload_is_the_builds_error(builder: Builder, tmp_path: Path) -> None:
    context = builder.context({"Dockerfile": "FROM scratch\nCOPY big /\n", "big": os.urandom(BLOB_BYTES)})
    folder = tmp_path / "registry"
    folder.mkdir()
    with slow_registry(folder) as (registry, way):
        arguments = ("run", "--progress", "plain", "-t", f"{way.host}/team/app:1", "--push", context)
        with builder.popen(*arguments) as process:
            wait_until(lambda: way.is_held.is_set() or process.poll() is not None, 60, what="the upload")
            os.kill(pid_of_gateway(process.pid), signal.SIGKILL)
            _, log = process.communicate(timeout=60)
        text = log.decode("utf-8", "replace")
        assert HELD_AT_BYTES < way.carried_bytes < BLOB_BYTES
        assert process.returncode not in (0, None)
        assert "Traceback" not in text
        errors = [line for line in text.splitlines() if line.startswith("ERROR")]
        assert errors == ["ERROR: the gateway was killed by signal 9 in the middle of the build"]
        builder.check_nothing_is_left()
        assert list((registry.root / "docker/registry/v2/repositories").rglob("_manifests/tags/*")) == []
        way.go_on.set()
        builder.run("-t", f"{way.host}/team/app:1", "--push", context)
        run_tool("skopeo", "copy", "--src-tls-verify=false", f"docker://{way.host}/team/app:1", f"oci:{tmp_path}/copied:1")
