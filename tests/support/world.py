"""The world outside, on a loopback address of the test's own: servers whose names only a fake resolver knows."""

from __future__ import annotations

import http.server
import random
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import trustme

BIG_BYTES = 64 * 1024 * 1024


def own_address() -> str:
    """A loopback address that nobody else is likely to use."""
    return f"127.{random.randint(64, 250)}.{random.randint(0, 255)}.{random.randint(1, 254)}"


class Names:
    """A resolver (gateway.resolver) over a table; `asked` lists what it was asked for."""

    def __init__(self, table: Mapping[str, list[str]]) -> None:
        self.table = dict(table)
        self.asked: list[str] = []

    def __call__(self, name: str) -> list[str]:
        self.asked.append(name)
        return list(self.table.get(name, []))


class World:
    """Servers on one address: HTTP on 80 and 8080, HTTPS on 443, an echo on 2222. `requests` are (port, line, Host).

    `server_names` are those of TLS clients; `lines` the first lines of all that came as a request, understood or not; `chunks`
    what came behind the heads of requests with a transfer coding, to the end of the connection.
    """

    def __init__(self, folder: Path, names: tuple[str, ...], address: str = "") -> None:
        self.address = address or own_address()
        self.requests: list[tuple[int, str, str]] = []
        self.lines: list[str] = []
        self.chunks: list[bytes] = []
        self.server_names: list[str] = []
        self.connections = 0
        authority = trustme.CA()
        self.authority = folder / "authority.pem"
        authority.cert_pem.write_to_path(str(self.authority))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*names).configure_cert(self._context)
        self._context.sni_callback = lambda _socket, name, _context: self.server_names.append(name or "")
        self._servers: list[socketserver.BaseServer] = []

    def start(self) -> None:
        for port in (80, 8080, 443):
            server = _Web((self.address, port), _handler(self, port))
            if port == 443:
                server.socket = self._context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
            self._run(server)
        self._run(_Speaker((self.address, 2222), _Banner))

    def _run(self, server: socketserver.BaseServer) -> None:
        self._servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


@contextmanager
def world(folder: Path, *names: str, address: str = "") -> Iterator[World]:
    made = World(folder, names, address)
    made.start()
    try:
        yield made
    finally:
        made.stop()


class _Web(http.server.ThreadingHTTPServer):
    request_queue_size = 512  # for tests that connect many times at once


class _Speaker(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 512


class _Banner(socketserver.BaseRequestHandler):
    """Says hello before the client does, then gives back what it gets."""

    def handle(self) -> None:
        connection: socket.socket = self.request
        connection.sendall(b"SSH-2.0-example\r\n")
        while chunk := connection.recv(65536):
            connection.sendall(chunk)


def _handler(world: World, port: int) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def parse_request(self) -> bool:
            world.lines.append(self.raw_requestline.decode("latin-1").strip())
            return super().parse_request()

        def do_GET(self) -> None:
            world.requests.append((port, self.requestline, self.headers.get("Host", "")))
            if self.path.startswith("/redirect/"):
                self.send_response(302)
                self.send_header("Location", "http://" + self.path.removeprefix("/redirect/"))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = bytes(BIG_BYTES) if self.path == "/big" else b"hello from " + self.path.encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            world.requests.append((port, self.requestline, self.headers.get("Host", "")))
            if "Transfer-Encoding" in self.headers and "Content-Length" not in self.headers:
                self._read_chunks()
            body = str(len(self.rfile.read(int(self.headers.get("Content-Length", "0").partition(",")[0])))).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _read_chunks(self) -> None:
            while chunk := self.rfile.read1(65536):
                world.chunks.append(chunk)

        def handle(self) -> None:
            world.connections += 1
            try:
                super().handle()
            except OSError:  # a client that went away
                pass

        def log_message(self, *_: object) -> None:
            pass

    return Handler
