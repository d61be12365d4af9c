"""Connections of steps to the world: judge the name, resolve it here, judge the addresses, connect to one of those, carry.

Between the look-up and the connection the address isn't looked up again, so a name that changes its mind gains nothing.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from typing import Final, NamedTuple

from sandboxbuild.gateway.audit import CONNECT, FETCH, NAME, REFUSE, AuditLog, Record
from sandboxbuild.gateway.limits import Meter, time_limit_key
from sandboxbuild.gateway.resolver import Resolver, Unresolved
from sandboxbuild.gateway.rules import RUN, Admitted, Allowed, Asker, Refused, admit, choose
from sandboxbuild.gateway.stepbook import NotDue, StepBook
from sandboxbuild.gateway.wire import NameCheck
from sandboxbuild.policy.isolation import NetworkRules
from sandboxbuild.system.relay import Cut, Relay

CONNECT_TIMEOUT_S: Final = 15.0
ESTABLISHED: Final = b"HTTP/1.1 200 Connected\r\n\r\n"
STEP_HEADER: Final = "sandboxbuild-step"
KIND_HEADER: Final = "sandboxbuild-kind"
REFUSED_HEADER: Final = "Sandboxbuild-Refused"


class Denied(Exception):
    """A connection that isn't made; `refused` says why, to the one who asked."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.reason)
        self.refused = refused


class Opened(NamedTuple):
    """A connection to an address that was judged."""

    connection: socket.socket
    address: str
    allowed: Allowed


class Egress:
    """One build's way to the world. Thread-safe: each request is served in its caller's thread, the bytes in the relay's."""

    def __init__(
        self, rules: NetworkRules, resolver: Resolver, audit: AuditLog, relay: Relay, book: StepBook | None = None
    ) -> None:
        self._rules = rules
        self._resolver = resolver
        self._audit = audit
        self._relay = relay
        self._meter = Meter(rules.step_budget, rules.build_budget)
        self._book = book or StepBook()

    def asker(self, step: str, kind: str = RUN) -> Asker:
        """Who asks, by a request's headers. Raises ValueError for headers that name nobody, Denied after the step's end."""
        if kind not in (RUN, FETCH):
            raise ValueError("a kind that isn't run or fetch")
        try:
            return self._book.asker(step, kind)
        except NotDue as error:
            refused = Refused(str(error), "", "ended")
            self._log_refusal(Asker(step), "", 0, refused)
            raise Denied(refused) from error

    def ask_name(self, asker: Asker, name: str) -> Admitted | Refused:
        """Whether a name may be asked for on some port. Resolves nothing; a refusal is logged, and a name that is learned."""
        verdict = admit(self._rules, asker, name)
        if isinstance(verdict, Refused):
            self._log_refusal(asker, name, 0, verdict)
        elif self._rules.learning:
            self._audit.write(Record(NAME, asker.step, asker.stage, name, learned=True))
        return verdict

    def open(self, asker: Asker, host: str, port: int) -> Opened:
        """Connect, by name, to an address that was judged. Not metered. Raises Denied; a refusal is logged."""
        try:
            return self._connect(host, port, self._judge(asker, host, port))
        except Denied as denied:
            self._log_refusal(asker, host, port, denied.refused)
            raise

    def _judge(self, asker: Asker, host: str, port: int) -> Allowed:
        admitted = admit(self._rules, asker, host, port)
        if isinstance(admitted, Refused):
            raise Denied(admitted)
        try:
            addresses = self._resolver(host)
        except Unresolved as error:
            raise Denied(Refused(f"{host} can't be resolved: {error}", "", "resolve")) from error
        chosen = choose(self._rules, host, admitted, addresses)
        if isinstance(chosen, Refused):
            raise Denied(chosen)
        return chosen

    def _connect(self, host: str, port: int, allowed: Allowed) -> Opened:
        """The first of the judged addresses that answers, within one time for all."""
        deadline_s = time.monotonic() + CONNECT_TIMEOUT_S
        fault = "no answer"
        for position, address in enumerate(allowed.addresses):
            share_s = (deadline_s - time.monotonic()) / (len(allowed.addresses) - position)
            if share_s <= 0:
                break
            try:
                return Opened(_connect_to(address, port, share_s), address, allowed)
            except OSError as error:
                fault = error.strerror or "no answer"
        raise Denied(Refused(f"{host}:{port} can't be reached: {fault}", "", "connect"))

    def carry(self, client: socket.socket, early: bytes, asker: Asker, host: str, port: int) -> None:
        """Serve a CONNECT whose head was read from `client`, and `early` behind it. Takes `client` over; never raises.

        Answers 200 and carries bytes until both sides are done, or answers 403 (502 where the host doesn't) and closes.
        """
        limit = self._meter.open(asker.step)
        if limit:
            self._refuse(client, asker, host, port, Refused(limit, "raise the limit in the policy", "limit"))
            return
        trip = _Trip(self._audit, self._meter, self._book, asker, host, port)
        try:
            opened = self._connect(host, port, self._judge(asker, host, port))
        except Denied as denied:
            self._meter.closed(asker.step)
            self._refuse(client, asker, host, port, denied.refused)
            return
        trip.opened(opened, learned=self._rules.learning)
        self._start(client, early, opened, trip)

    def _start(self, client: socket.socket, early: bytes, opened: Opened, trip: _Trip) -> None:
        check = trip.check = NameCheck(trip.host, trip.port) if opened.allowed.inspect else None
        try:
            early = check.feed(early) if check is not None and early else early
            client.settimeout(CONNECT_TIMEOUT_S)
            client.sendall(ESTABLISHED)
            self._relay.add(
                client,
                opened.connection,
                trip,
                early=early,
                filter_=check,
                idle_s=self._meter.idle_s,
                lifetime_s=self._meter.connected_s,
            )
        except (Cut, OSError, RuntimeError) as error:
            for end in (client, opened.connection):
                end.close()
            trip.closed(str(error))

    def _refuse(self, client: socket.socket, asker: Asker, host: str, port: int, refused: Refused) -> None:
        self._log_refusal(asker, host, port, refused)
        try:
            client.settimeout(CONNECT_TIMEOUT_S)
            client.sendall(refusal_answer(refused))
            client.shutdown(socket.SHUT_WR)
        except OSError:  # whoever asked doesn't wait for the answer
            pass
        client.close()

    def _log_refusal(self, asker: Asker, host: str, port: int, refused: Refused) -> None:
        self._audit.write(
            Record(
                REFUSE, asker.step, asker.stage, host[:300], port, reason=refused.reason, hint=refused.hint, rule=refused.code
            )
        )


class _Trip:
    """The relay's Watcher for one connection: it meters, and writes the audit record at the end."""

    __slots__ = (
        "_address",
        "_asker",
        "_audit",
        "_began_s",
        "_book",
        "_learned",
        "_limit",
        "_meter",
        "_received",
        "_rule",
        "_sent",
        "check",
        "host",
        "port",
    )

    def __init__(self, audit: AuditLog, meter: Meter, book: StepBook, asker: Asker, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._audit = audit
        self._meter = meter
        self._book = book
        self._asker = asker
        self._began_s = time.time()
        self._address = ""
        self._rule = ""
        self._learned = False
        self._sent = 0
        self._received = 0
        self._limit = ""
        self.check: NameCheck | None = None

    def opened(self, opened: Opened, *, learned: bool) -> None:
        self._address = opened.address
        self._rule = opened.allowed.rule
        self._learned = learned

    def moved(self, sent: int, received: int) -> str:
        self._sent += sent
        self._received += received
        self._limit = self._meter.moved(self._asker.step, sent, received)
        return self._limit or ("the step has ended" if self._book.has_ended(self._asker.step) else "")

    def closed(self, reason: str) -> None:
        self._meter.closed(self._asker.step)
        key = time_limit_key(reason)
        reason = f"{reason} ([network.limits] {key})" if key else reason
        refused = self._limit or (self.check is not None and self.check.fault)
        carried = CONNECT if self._asker.kind == RUN else FETCH
        self._audit.write(
            Record(
                REFUSE if refused else carried,
                self._asker.step,
                self._asker.stage,
                self.host,
                self.port,
                self._address,
                self._sent,
                self._received,
                self._began_s,
                int((time.time() - self._began_s) * 1000),
                self._rule,
                reason,
                learned=self._learned,
            )
        )


def _connect_to(address: str, port: int, timeout_s: float) -> socket.socket:
    """A TCP connection to exactly this address: no name is involved any more. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(timeout_s)
        connection.connect((address, port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        connection.close()
        raise
    return connection


def refusal_answer(refused: Refused) -> bytes:
    """The HTTP answer to a CONNECT that is refused: the distribution-spec's error document, with a hint."""
    status = "502 Bad Gateway" if refused.code in ("connect", "resolve") else "403 Forbidden"
    body = json.dumps(refusal_document(refused)).encode("ascii")
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        f"{REFUSED_HEADER}: {refused.code}\r\nConnection: close\r\n\r\n"
    )
    return head.encode("ascii") + body


def refusal_document(refused: Refused) -> Mapping[str, object]:
    return {"errors": [{"code": refused.code.upper(), "message": refused.reason}], "hint": refused.hint}
