"""A step's network from the program to the server and back: names, listeners, proxy, gateway, limits, learning."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxbuild.executor.proxy import proxy_environment
from sandboxbuild.gateway.audit import CONNECT
from sandboxbuild.gateway.learn import learn
from sandboxbuild.policy.document import read_policy
from sandboxbuild.policy.isolation import Allow, Budget, NetworkRules
from sandboxbuild.policy.resolve import isolation_of
from tests.support.small_gateway import SmallGateway
from tests.support.step_namespace import step_namespace
from tests.support.world import BIG_BYTES, Names, World, world

pytestmark = pytest.mark.root

NAME, OTHER = "files.example.com", "other.example.com"
PORTS = (80, 443, 2222, 8080)
LOOPBACK = ("127.0.0.0/8",)
RULES = NetworkRules(run=(Allow(NAME, PORTS, text=f"{NAME}:all"),), ranges=LOOPBACK)
PROXY = dict(proxy_environment())


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path, NAME, OTHER) as made:
        yield made


def names(outside: World) -> Names:
    return Names({NAME: [outside.address], OTHER: [outside.address]})


@pytest.mark.parametrize("environment", [{}, PROXY], ids=["knows nothing of proxies", "uses the proxy"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_program_reaches_an_allowed_name(tmp_path: Path, outside: World, scheme: str, environment: dict[str, str]) -> None:
    with SmallGateway(tmp_path, RULES, names(outside)) as gateway, step_namespace(str(tmp_path), gateway.uplink, PORTS) as step:
        url = f"{scheme}://{NAME}/x"
        status, out, log = step.run("curl", "-sS", "--cacert", str(outside.authority), url, environment=environment)
        assert (status, out) == (0, "hello from /x"), log
        time.sleep(0.2)
        records = gateway.audit.records()
    assert [(record.kind, record.name, record.address, record.rule) for record in records] == [
        (CONNECT, NAME, outside.address, f"{NAME}:all")
    ]
    assert records[0].received > 100 and records[0].sent > 50


@pytest.mark.parametrize("environment", [{}, PROXY], ids=["direct", "proxy"])
def test_body_goes_up_whole(tmp_path: Path, outside: World, environment: dict[str, str]) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(os.urandom(3_000_000))
    with SmallGateway(tmp_path, RULES, names(outside)) as gateway, step_namespace(str(tmp_path), gateway.uplink, PORTS) as step:
        argv = ("curl", "-sS", "--data-binary", f"@{upload}", "-H", "Expect:", f"http://{NAME}/up")
        assert step.run(*argv, environment=environment)[:2] == (0, "3000000")


def test_server_that_speaks_first_is_heard(tmp_path: Path, outside: World) -> None:
    script = (
        "import socket; s = socket.create_connection(('files.example.com', 2222))\n"
        "print(s.recv(99)); s.send(b'x\\n'); print(s.recv(9))\n"
    )
    with SmallGateway(tmp_path, RULES, names(outside)) as gateway, step_namespace(str(tmp_path), gateway.uplink, PORTS) as step:
        assert step.run("/usr/bin/python3", "-c", script)[:2] == (0, "b'SSH-2.0-example\\r\\n'\nb'x\\n'\n")


def test_refused_name_fails_at_once_and_is_told_with_its_line(tmp_path: Path, outside: World) -> None:
    with SmallGateway(tmp_path, RULES, names(outside)) as gateway, step_namespace(str(tmp_path), gateway.uplink, PORTS) as step:
        began_s = time.monotonic()
        assert step.run("curl", "-sS", f"https://{OTHER}/")[0] == 6
        assert step.run("getent", "ahosts", OTHER)[0] == 2
        out = step.run("curl", "-sS", f"http://{OTHER}:8080/", environment=PROXY)[1]
        assert time.monotonic() - began_s < 2
        refusals = step.network.refusals
    assert 'allow it with: [network.run] allow = ["other.example.com:8080"]' in out
    assert [(refusal.name, refusal.port) for refusal in refusals] == [(OTHER, 0), (OTHER, 8080)]
    assert refusals[0].hint == 'allow it with: [network.run] allow = ["other.example.com"]'
    assert outside.connections == 0


def test_name_is_looked_up_only_when_a_connection_is_made(tmp_path: Path, outside: World) -> None:
    resolver = names(outside)
    with SmallGateway(tmp_path, RULES, resolver) as gateway, step_namespace(str(tmp_path), gateway.uplink, PORTS) as step:
        step.run("getent", "ahosts", NAME)
        assert resolver.asked == []
        step.run("curl", "-sS", f"http://{NAME}/")
    assert resolver.asked == [NAME]


def test_address_that_does_not_answer_gives_way_to_the_next(tmp_path: Path, outside: World) -> None:
    resolver = Names({NAME: ["127.63.0.9", outside.address]})
    with SmallGateway(tmp_path, RULES, resolver) as gateway, step_namespace(str(tmp_path), gateway.uplink, PORTS) as step:
        assert step.run("curl", "-sS", f"http://{NAME}/")[0] == 0


def test_many_connections_leave_no_descriptor(tmp_path: Path, outside: World) -> None:
    fetch = (
        "import socket, threading\n"
        "def one():\n"
        "    s = socket.create_connection(('files.example.com', 2222)); s.recv(99)\n"
        "    s.send(b'\\0'); assert s.recv(1) == b'\\0'; s.close()\n"
        "for _ in range(1000): one()\n"
        "all = [threading.Thread(target=one) for _ in range(200)]\n"
        "[t.start() for t in all]; [t.join() for t in all]; print('done')\n"
    )
    rules = RULES._replace(step_budget=Budget(connections=1000))
    with SmallGateway(tmp_path, rules, names(outside)) as gateway, step_namespace(str(tmp_path), gateway.uplink, PORTS) as step:
        step.run("curl", "-sS", f"http://{NAME}/")
        time.sleep(0.3)
        before = len(os.listdir("/proc/self/fd"))
        status, out, log = step.run("/usr/bin/python3", "-c", fetch, timeout_s=120)
        assert (status, out) == (0, "done\n"), log
        deadline_s = time.monotonic() + 5
        while len(os.listdir("/proc/self/fd")) > before and time.monotonic() < deadline_s:
            time.sleep(0.1)
        assert len(os.listdir("/proc/self/fd")) <= before
        assert sum(record.kind == CONNECT for record in gateway.audit.records()) == 1201


@pytest.mark.parametrize(
    ("budget", "limit"),
    [
        (Budget(download_bytes=1_000_000), "download"),
        (Budget(connected_s=1.0), "lasted too long"),
        (Budget(idle_s=0.5), "nothing moved"),
    ],
)
def test_limit_that_is_hit_is_named(tmp_path: Path, outside: World, budget: Budget, limit: str) -> None:
    script = "import socket, time; s = socket.create_connection(('files.example.com', 2222)); s.recv(99); print(s.recv(9))"
    argv = (
        ("curl", "-sS", "-o", "/dev/null", f"http://{NAME}/big") if limit == "download" else ("/usr/bin/python3", "-c", script)
    )
    rules = RULES._replace(step_budget=budget)
    with SmallGateway(tmp_path, rules, names(outside)) as gateway, step_namespace(str(tmp_path), gateway.uplink, PORTS) as step:
        step.run(*argv)
        time.sleep(0.3)
        reasons = [record.reason for record in gateway.audit.records()]
    assert len(reasons) == 1 and limit in reasons[0]


def test_connections_at_once_are_limited(tmp_path: Path, outside: World) -> None:
    script = (
        "import socket\n"
        "held = [socket.create_connection(('files.example.com', 2222)) for _ in range(5)]\n"
        "print(sorted(bool(s.recv(99)) for s in held))\n"
    )
    rules = RULES._replace(step_budget=Budget(connections=3))
    with SmallGateway(tmp_path, rules, names(outside)) as gateway, step_namespace(str(tmp_path), gateway.uplink, PORTS) as step:
        assert step.run("/usr/bin/python3", "-c", script)[1] == "[False, False, True, True, True]\n"
        assert "limit of 3 connections at once" in step.network.refusals[0].reason


def test_learned_policy_passes_the_same_step_and_no_other_name(tmp_path: Path, outside: World) -> None:
    command = ("curl", "-sS", "--cacert", str(outside.authority), f"https://{NAME}/x")
    learning = NetworkRules(ranges=LOOPBACK, learning=True)
    with (
        SmallGateway(tmp_path, learning, names(outside)) as gateway,
        step_namespace(str(tmp_path), gateway.uplink, PORTS) as step,
    ):
        assert step.run(*command)[0] == 0
        time.sleep(0.2)
        text = learn(gateway.audit.records(), isolation_of(read_policy("base.toml", b""), "mine", "r"))
    rules = read_policy("learned.toml", text.encode()).document.network.value()
    again = tmp_path / "again"
    again.mkdir()
    with SmallGateway(again, rules, names(outside)) as gateway, step_namespace(str(again), gateway.uplink, PORTS) as step:
        assert step.run(*command)[0] == 0
        assert step.run("curl", "-sS", f"https://{OTHER}/x")[0] == 6
        assert step.run("curl", "-sS", f"http://{NAME}/x")[0] != 0


def test_gateway_that_ends_in_a_download_ends_the_download(tmp_path: Path, outside: World) -> None:
    with SmallGateway(tmp_path, RULES, names(outside)) as gateway, step_namespace(str(tmp_path), gateway.uplink, PORTS) as step:
        download = step.popen("curl", "-sS", "--limit-rate", "5M", "-o", "/dev/null", f"http://{NAME}/big")
        time.sleep(0.7)
        gateway.relay.close()
        assert download.wait(10) != 0
        download.communicate()


def test_big_download_arrives_whole(tmp_path: Path, outside: World) -> None:
    target = tmp_path / "big"
    with SmallGateway(tmp_path, RULES, names(outside)) as gateway, step_namespace(str(tmp_path), gateway.uplink, PORTS) as step:
        assert step.run("curl", "-sS", "--cacert", str(outside.authority), "-o", str(target), f"https://{NAME}/big")[0] == 0
    assert target.stat().st_size == BIG_BYTES
