"""From a name to addresses, with a time-out: by the host's own resolver, or by name servers that are given."""

from __future__ import annotations

import ipaddress
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from sandboxbuild.protocol.dns import AAAA, MESSAGE_LIMIT, NOERROR, NXDOMAIN, A, Answer, BadMessage, read_answer, write_query

Resolver = Callable[[str], "list[str]"]
"""The addresses of a name that name_fault() let through, [] for none. Thread-safe. Raises Unresolved."""

TIMEOUT_S: Final = 10.0
_LOOKUPS_AT_ONCE: Final = 64
_TRIES: Final = 3
_ADDRESS_LIMIT: Final = 32


class Unresolved(OSError):
    """No answer: the text says why."""


class SystemResolver:
    """getaddrinfo(3), so /etc/hosts and nsswitch.conf hold. A lookup that hangs costs a thread until it ends, at most 64."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._room = threading.Semaphore(_LOOKUPS_AT_ONCE)

    def __call__(self, name: str) -> list[str]:
        if not self._room.acquire(timeout=self._timeout_s):
            raise Unresolved("too many look-ups are under way")
        done = threading.Event()
        found: list[str] = []
        faults: list[str] = []
        threading.Thread(target=self._look_up, args=(name, found, faults, done), daemon=True).start()
        if not done.wait(self._timeout_s):
            raise Unresolved(f"the name server didn't answer within {self._timeout_s:g} s")
        if faults:
            raise Unresolved(faults[0])
        return found

    def _look_up(self, name: str, found: list[str], faults: list[str], done: threading.Event) -> None:
        try:
            answers = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            found += dict.fromkeys(str(address[0]) for *_, address in answers[:_ADDRESS_LIMIT])
        except socket.gaierror as error:
            if error.errno != socket.EAI_NONAME:
                faults.append(error.strerror or "the look-up failed")
        except (OSError, UnicodeError) as error:
            faults.append(type(error).__name__)
        finally:
            self._room.release()
            done.set()


class ServerResolver:
    """Asks name servers, (address, port), one after the other until one answers: for A and AAAA at once, over UDP.

    An answer must echo a random id and come to a port of its own; one that doesn't fit is asked for again over TCP.
    """

    def __init__(self, servers: Sequence[tuple[str, int]], timeout_s: float = TIMEOUT_S) -> None:
        self._servers = tuple(servers)
        self._timeout_s = timeout_s

    def __call__(self, name: str) -> list[str]:
        fault = Unresolved("there is no name server")
        for server in self._servers:
            try:
                return _Inquiry(server, name, self._timeout_s / len(self._servers)).addresses()
            except Unresolved as error:
                fault = error
        raise fault


class _Inquiry:
    """One name asked of one server."""

    def __init__(self, server: tuple[str, int], name: str, timeout_s: float) -> None:
        self._server = server
        self._deadline_s = time.monotonic() + timeout_s
        self._try_s = timeout_s / _TRIES
        self._queries = {kind: write_query(secrets.randbits(16), name, kind) for kind in (A, AAAA)}
        self._answers: dict[int, Answer] = {}

    def addresses(self) -> list[str]:
        """A records first. Raises Unresolved where the server doesn't answer, or says that it can't."""
        family = socket.AF_INET6 if ":" in self._server[0] else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as channel:
                channel.connect(self._server)
                while self._missing() and time.monotonic() < self._deadline_s:
                    for kind in self._missing():
                        channel.send(self._queries[kind])
                    self._listen(channel)
            for kind in [kind for kind, answer in self._answers.items() if answer.truncated]:
                self._answers[kind] = self._ask_by_tcp(kind)
        except OSError as error:
            raise Unresolved(f"the name server can't be reached: {error.strerror or error}") from error
        return self._found()

    def _missing(self) -> list[int]:
        return [kind for kind in self._queries if kind not in self._answers]

    def _listen(self, channel: socket.socket) -> None:
        """Take answers until both are there, or it is time to ask again."""
        until_s = min(self._deadline_s, time.monotonic() + self._try_s)
        while self._missing() and (left_s := until_s - time.monotonic()) > 0:
            channel.settimeout(left_s)
            try:
                message = channel.recv(MESSAGE_LIMIT)
            except TimeoutError:
                return
            for kind in self._missing():
                try:
                    self._answers[kind] = read_answer(message, self._queries[kind], kind)
                except BadMessage:
                    continue

    def _ask_by_tcp(self, kind: int) -> Answer:
        """RFC 7766: the message behind its length. Raises OSError."""
        query = self._queries[kind]
        with socket.create_connection(self._server, max(0.1, self._deadline_s - time.monotonic())) as connection:
            connection.sendall(len(query).to_bytes(2, "big") + query)
            with connection.makefile("rb") as stream:
                length = int.from_bytes(stream.read(2), "big")
                try:
                    return read_answer(stream.read(length), query, kind)
                except BadMessage as error:
                    raise OSError(f"its answer over TCP can't be read: {error}") from error

    def _found(self) -> list[str]:
        found = [address for kind in (A, AAAA) if kind in self._answers for address in self._answers[kind].addresses]
        codes = {answer.code for answer in self._answers.values()} - {NOERROR, NXDOMAIN}
        if not found and codes:
            raise Unresolved(f"the name server answered with code {min(codes)}")
        if not found and self._missing():
            raise Unresolved("the name server didn't answer")
        return [str(ipaddress.ip_address(address)) for address in found[:_ADDRESS_LIMIT]]
