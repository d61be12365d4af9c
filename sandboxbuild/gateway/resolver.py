"""From a name to addresses, with a time-out: by the host's own resolver, or by a name server that is given."""

from __future__ import annotations

import ipaddress
import secrets
import socket
import threading
import time
from collections.abc import Callable
from typing import Final

from sandboxbuild.protocol.dns import AAAA, NOERROR, NXDOMAIN, A, BadMessage, read_answer, write_query

Resolver = Callable[[str], "list[str]"]
"""The addresses of a name that name_fault() let through, [] for none. Thread-safe. Raises Unresolved."""

TIMEOUT_S: Final = 10.0
_LOOKUPS_AT_ONCE: Final = 64
_TRIES: Final = 3
_ADDRESS_LIMIT: Final = 32


class Unresolved(Exception):
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
    """Asks one name server over UDP, for A and AAAA; an answer must echo a random id and come to a port of its own."""

    def __init__(self, host: str, port: int = 53, timeout_s: float = TIMEOUT_S) -> None:
        self._server = (host, port)
        self._timeout_s = timeout_s

    def __call__(self, name: str) -> list[str]:
        deadline_s = time.monotonic() + self._timeout_s
        return [*self._ask(name, A, deadline_s), *self._ask(name, AAAA, deadline_s)]

    def _ask(self, name: str, kind: int, deadline_s: float) -> list[str]:
        query = write_query(secrets.randbits(16), name, kind)
        family = socket.AF_INET6 if ":" in self._server[0] else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as channel:
            channel.connect(self._server)
            for _ in range(_TRIES):
                channel.send(query)
                addresses = self._await_answer(channel, query, kind, deadline_s)
                if addresses is not None:
                    return addresses
        raise Unresolved("the name server didn't answer")

    def _await_answer(self, channel: socket.socket, query: bytes, kind: int, deadline_s: float) -> list[str] | None:
        try_until_s = min(deadline_s, time.monotonic() + self._timeout_s / _TRIES)
        while (left_s := try_until_s - time.monotonic()) > 0:
            channel.settimeout(left_s)
            try:
                answer = read_answer(channel.recv(4096), query, kind)
            except TimeoutError:
                return None
            except BadMessage:
                continue
            except OSError as error:
                raise Unresolved(f"the name server can't be reached: {error.strerror}") from error
            if answer.code not in (NOERROR, NXDOMAIN):
                raise Unresolved(f"the name server answered with code {answer.code}")
            return [str(ipaddress.ip_address(address)) for address in answer.addresses[:_ADDRESS_LIMIT]]
        return None
