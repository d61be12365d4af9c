"""A step's network against the gateway's own process, over its unix socket and over TCP with a token."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxbuild.gateway.config import GatewayConfig
from sandboxbuild.gateway.process import Gateway
from sandboxbuild.policy.isolation import Allow, NetworkRules
from sandboxbuild.registry.uplink import Uplink, UplinkAddress
from tests.support.step_namespace import step_namespace

pytestmark = pytest.mark.root


class _Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    """A web server on loopback."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hello)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def gateway_config(port: int, **listening: object) -> GatewayConfig:
    rules = NetworkRules(run=(Allow("localhost", (port,)),), ranges=("127.0.0.0/8", "::1/128"))
    return GatewayConfig("b1", network=rules, **listening)  # type: ignore[arg-type]  # the socket's or the port's fields


def fetch(folder: Path, uplink: Uplink, port: int) -> tuple[int, str, str]:
    with step_namespace(str(folder), uplink, ()) as step:
        argv = ("curl", "-sS", "--noproxy", "", "-x", "http://127.0.0.1:3128")
        refused = step.run(*argv, "http://other.example.com/")[1]
        assert 'allow it with: [network.run] allow = ["other.example.com:80"]' in refused
        assert step.run("getent", "ahosts", "other.example.com")[0] == 2
        return step.run(*argv, f"http://localhost:{port}/")


def test_step_reaches_its_name_through_the_process(tmp_path: Path, port: int) -> None:
    path = str(tmp_path / "uplink")
    with Gateway.start(gateway_config(port, socket_path=path)) as gateway:
        assert fetch(tmp_path, Uplink(UplinkAddress(path=path)), port)[1] == "hello"
    kinds = [(record.kind, record.name, record.port, record.step) for record in gateway.records]
    assert ("connect", "localhost", port, "1") in kinds
    assert ("refuse", "other.example.com", 80, "1") in kinds


def test_step_reaches_its_name_over_tcp_with_the_token(tmp_path: Path, port: int) -> None:
    config = gateway_config(port, tcp_host="127.0.0.1", token="t" * 40)
    with Gateway.start(config) as gateway:
        host, _, tcp_port = gateway.address.rpartition(":")
        right = Uplink(UplinkAddress(host=host, port=int(tcp_port), token="t" * 40))
        assert fetch(tmp_path, right, port)[1] == "hello"
        wrong = Uplink(UplinkAddress(host=host, port=int(tcp_port), token="u" * 40))
        folder = tmp_path / "wrong"
        folder.mkdir()
        with step_namespace(str(folder), wrong, ()) as step:
            assert (
                "hello"
                not in step.run("curl", "-sS", "--noproxy", "", "-x", "http://127.0.0.1:3128", f"http://localhost:{port}/")[1]
            )


def test_gateway_that_is_killed_ends_a_step_with_an_error(tmp_path: Path, port: int) -> None:
    path = str(tmp_path / "uplink")
    with (
        Gateway.start(gateway_config(port, socket_path=path)) as gateway,
        step_namespace(str(tmp_path), Uplink(UplinkAddress(path=path)), ()) as step,
    ):
        gateway._process.kill()
        gateway._process.wait()
        status, out, _ = step.run(
            "curl", "-sS", "-f", "--noproxy", "", "-x", "http://127.0.0.1:3128", f"http://localhost:{port}/"
        )
        assert status == 22 and out == ""
        status, out, _ = step.run("curl", "-sS", "--noproxy", "", "-x", "http://127.0.0.1:3128", f"http://localhost:{port}/")
        assert "the gateway can't be reached" in out
