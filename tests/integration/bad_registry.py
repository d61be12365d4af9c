"""A registry of the tests' own that misbehaves as it is told, and writes down every header that it gets."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import trustme


class Seen(NamedTuple):
    method: str
    path: str
    headers: Mapping[str, str]


Answer = Callable[[BaseHTTPRequestHandler], None]


class BadRegistry:
    """`answers` maps "METHOD /path" (without query) to what is done; anything else is 404. /v2/ answers 200 unless told."""

    def __init__(self, address: str = "127.0.0.1", tls: trustme.LeafCert | None = None) -> None:
        self.seen: list[Seen] = []
        self.answers: dict[str, Answer] = {"GET /v2/": reply(200, b"{}")}
        self.stopping = threading.Event()
        self._server = ThreadingHTTPServer((address, 0), self._handler())
        self._server.daemon_threads = True
        self.scheme = "http"
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.configure_cert(context)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
            self.scheme = "https"
        self.host = f"{address}:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    def close(self) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()

    def header_values(self, name: str) -> list[str]:
        return [seen.headers[name] for seen in self.seen if name in seen.headers]

    def everything(self) -> str:
        """All that this server ever got, as one text to look for secrets in."""
        return "\n".join(f"{seen.method} {seen.path} {dict(seen.headers)}" for seen in self.seen)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None: ...

            def handle_any(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                registry.seen.append(Seen(self.command, self.path, headers))
                answer = registry.answers.get(f"{self.command} {self.path.partition('?')[0]}", reply(404, b"{}"))
                answer(self)

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = handle_any

        return Handler


@contextmanager
def bad_registry(address: str = "127.0.0.1", tls: trustme.LeafCert | None = None) -> Iterator[BadRegistry]:
    registry = BadRegistry(address, tls)
    try:
        yield registry
    finally:
        registry.close()


def reply(status: int, body: bytes = b"", **headers: str) -> Answer:
    """A plain answer; underscores in header names become hyphens."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("content-length", "0") or 0)
        while length > 0 and (chunk := handler.rfile.read(min(length, 65536))):
            length -= len(chunk)
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)

    return answer


def in_turn(*answers: Answer) -> Answer:
    """Each answer once, the last for ever."""
    waiting = list(answers)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        (waiting.pop(0) if len(waiting) > 1 else waiting[0])(handler)

    return answer


def cut_after(body: bytes, count: int) -> Answer:
    """Promise all of `body`, give `count` bytes, and drop the connection."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[:count])
        handler.close_connection = True

    return answer


def ranged(body: bytes) -> Answer:
    """A blob that may be asked for from an offset."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        value = handler.headers.get("range", "")
        offset = int(value[6:-1]) if value else 0
        extra = {"Content_Range": f"bytes {offset}-{len(body) - 1}/{len(body)}"} if value else {}
        reply(206 if value else 200, body[offset:], **extra)(handler)

    return answer
