"""What a hostile step tries, as lines for attempts.c, and a world in a network of its own that knows which of them reached it.

Each attempt carries its name, "attempt-NAME", to wherever it leads: in a path, a datagram, a host name. So what the servers,
sockets and name server of the world have heard says which attempts succeeded; what the step says itself is no evidence.
"""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sandboxbuild.policy.library import packaged_folder
from tests.support.builder import Builder, wait_until
from tests.support.mutants import make_mutant
from tests.support.outside import Resolver
from tests.support.own_network import Ear, OwnNetwork
from tests.support.sandboxes import find_process
from tests.support.world import World, world

WORLD, WORLD_V6, RESOLVER = "203.0.113.80", "2001:db8::80", "203.0.113.53"
PRIVATE_ADDRESS, METADATA_ADDRESS = "10.77.0.1", "169.254.169.254"
NAME, OTHER, FETCHED = "files.example.com", "other.example.com", "fetched.example.com"
INSIDE, PRIVATE, METADATA = "inside.example.com", "private.example.com", "named-by-a-stranger.example.com"
TUNNEL = "attempt-tunnel.c2vjcmv0.tunnel.example.com"
TABLE = {
    **dict.fromkeys((NAME, OTHER, FETCHED, TUNNEL), WORLD),
    INSIDE: "127.0.0.1",
    PRIVATE: PRIVATE_ADDRESS,
    METADATA: METADATA_ADDRESS,
}
UDP_PORT, V6_PORT, HEARD_PORT = 4998, 4997, 4999
ABSTRACT = "@sandboxbuild-world"
PROXY = ("127.0.0.1", "3128")
MARKER = "listened-to-6a1f"
_ATTEMPT = re.compile(r"attempt-([a-z0-9-]+)")
_SAID = re.compile(r"attempt ([a-z0-9-]+): ?(.*)")
_LISTENER = """
import select, socket, sys
names = set(sys.argv[1:])
ears = [socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))]
ears[0].bind(("lo", 0))
heard = set()
while names - heard and select.select(ears, [], [], 10)[0]:
    frame = ears[0].recv(65536)
    heard |= {name for name in names if ("attempt-" + name).encode() in frame}
print(*sorted(heard))
for _ in names:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 4999))
"""

Lines = Mapping[str, tuple[str, ...]]


def get(name: str, host: str, path: str = "") -> str:
    return f"GET {path or f'/attempt-{name}'} HTTP/1.1|Host: {host}||"


def hello(server_name: str) -> bytes:
    """A TLS ClientHello as OpenSSL writes it."""
    out = ssl.MemoryBIO()
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(ssl.MemoryBIO(), out, server_hostname=server_name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return out.read()


# Without names: what needs the network of the host to succeed.
DIRECT: Lines = {
    "literal": ("tcp", WORLD, "80", get("literal", WORLD)),
    "mapped": ("tcp", f"::ffff:{WORLD}", "80", get("mapped", WORLD)),
    "v6": ("tcp", WORLD_V6, str(V6_PORT), "attempt-v6"),
    "udp": ("udp", WORLD, str(UDP_PORT), "attempt-udp"),
    "ping": ("ping", WORLD, "attempt-ping"),
    "dns": ("ask", RESOLVER, "attempt-dns.example.com"),
    "abstract": ("unix", ABSTRACT, "attempt-abstract"),
}
# What no network but the step's own could carry, so that a listener has to be in there.
FRAMES: Lines = {"raw": ("raw", "198.18.0.9", "attempt-raw"), "packet": ("packet", "attempt-packet")}
LITERALS: Lines = {
    "proxy-literal": ("tcp", *PROXY, get("proxy-literal", WORLD, f"http://{WORLD}/attempt-proxy-literal")),
    "proxy-number": ("tcp", *PROXY, get("proxy-number", "3405803856", "http://3405803856/attempt-proxy-number")),
    "connect-literal": ("tcp", *PROXY, f"CONNECT {WORLD}:80 HTTP/1.1|Host: {WORLD}:80||{get('connect-literal', WORLD)}"),
}
# With names: what a wider policy lets through.
NAMED: Lines = {
    "tunnel": ("name", TUNNEL, "80", get("tunnel", TUNNEL)),
    "inside": ("name", INSIDE, "80", get("inside", INSIDE)),
    "inside-proxy": ("tcp", *PROXY, get("inside-proxy", INSIDE, f"http://{INSIDE}/attempt-inside-proxy")),
    "connect-private": ("tcp", *PROXY, f"CONNECT {PRIVATE}:80 HTTP/1.1|Host: {PRIVATE}:80||{get('connect-private', PRIVATE)}"),
    "host": ("name", NAME, "80", get("host", OTHER)),
    "second-host": ("name", NAME, "80", get("", NAME, "/first") + get("second-host", OTHER)),
    "absolute": ("name", NAME, "80", get("absolute", NAME, f"http://{OTHER}/attempt-absolute")),
    "redirect": ("run", "/busybox", "wget", "-q", "-O", "-", f"http://{NAME}/redirect/{OTHER}/attempt-redirect"),
    "other-step": ("name", OTHER, "80", get("other-step", OTHER)),
    "fetched": ("name", FETCHED, "80", get("fetched", FETCHED)),
    "lengths": (
        "name",
        NAME,
        "80",
        f"POST /a HTTP/1.1|Host: {NAME}|Content-Length: 0|Content-Length: 70||{get('lengths', OTHER)}",
    ),
    "coding": (
        *("name", NAME, "80"),
        f"POST /a HTTP/1.1|Host: {NAME}|Content-Length: 5|Transfer-Encoding: chunked||0||{get('coding', OTHER)}",
    ),
    "folded": ("name", NAME, "80", f"GET /attempt-folded HTTP/1.1|X: y|  Host: {NAME}|Host: {OTHER}||"),
    "newlines": ("name", NAME, "80", f"GET /attempt-newlines HTTP/1.1|X: y\\nHost: {OTHER}\\nZ: |Host: {NAME}||"),
    "chunks": (
        *("name", NAME, "80"),
        f"POST /a HTTP/1.1|Host: {NAME}|Transfer-Encoding: chunked||3;attempt-chunks|abc|0||",
    ),
}
STAND_INS: Lines = {f"stand-in-{n}": ("tcp", f"198.18.0.{n}", "80", get(f"stand-in-{n}", OTHER)) for n in range(2, 8)}
METADATA_LINES: Lines = {
    "metadata": ("name", METADATA, "80", get("metadata", METADATA)),
    "metadata-proxy": ("tcp", *PROXY, get("metadata-proxy", METADATA, f"http://{METADATA}/attempt-metadata-proxy")),
    "metadata-literal": ("tcp", METADATA_ADDRESS, "80", get("metadata-literal", METADATA_ADDRESS)),
}
NO_NETWORK: Lines = {
    "none": ("name", NAME, "80", get("none", NAME)),
    "none-proxy": ("tcp", *PROXY, get("none-proxy", NAME, f"http://{NAME}/attempt-none-proxy")),
}


# What a step would tell the gateway if it could: that it is the executor, which fetches.
_FETCH = f"CONNECT {FETCHED}:80 HTTP/1.1|Host: {FETCHED}:80|Sandboxbuild-Step: 9|Sandboxbuild-Kind: fetch||"
UPLINK: Lines = {
    "uplink-found": ("find", _FETCH + get("uplink-found", FETCHED)),
    "uplink-path": ("unix", "/sandboxbuild/uplink/socket", _FETCH + get("uplink-path", FETCHED)),
    "uplink-of-init": ("unix", "/proc/1/root/sandboxbuild/uplink/socket", _FETCH + get("uplink-of-init", FETCHED)),
    "uplink-inherited": ("fds", _FETCH + get("uplink-inherited", FETCHED)),
}


def server_name_line() -> Lines:
    return {
        "server-name": ("name", NAME, "443", "".join(f"\\x{byte:02x}" for byte in hello("attempt-server-name.example.com")))
    }


def plan(*groups: Lines) -> str:
    lines = {name: line for group in groups for name, line in group.items()}
    return "".join("\t".join((name, *line)).replace("|", "\\r\\n") + "\n" for name, line in lines.items())


# What a lenient proxy would take for a request to NAME, and a server, or the proxy itself, for one to OTHER.
_POST = f"POST http://{NAME}/a HTTP/1.1|Host: {NAME}|"
_CHUNKED = _POST + "Transfer-Encoding: chunked||"
_TRICKS = {
    "length-and-coding": _POST + "Content-Length: 5|Transfer-Encoding: chunked||0||{hidden}",
    "two-lengths": _POST + "Content-Length: 0|Content-Length: 70||{hidden}",
    "signed-length": _POST + "Content-Length: +0||{hidden}",
    "listed-length": _POST + "Content-Length: 0, 0||{hidden}",
    "other-coding": _POST + "Transfer-Encoding: xchunked||{hidden}",
    "two-codings": _POST + "Transfer-Encoding: chunked|Transfer-Encoding: identity||{hidden}",
    "space-before-colon": _POST + "Transfer-Encoding : chunked||{hidden}",
    "old-coding": f"POST http://{NAME}/a HTTP/1.0|Host: {NAME}|Transfer-Encoding: chunked||0||{{hidden}}",
    "chunk-extension": _CHUNKED + "3;{attempt}|abc|0||",
    "chunk-newline": _CHUNKED + "3\\nabc{attempt}|0||",
    "chunk-trailer": _CHUNKED + "3|abc|0|X: {attempt}||",
    "chunk-too-short": _CHUNKED + "3|abc{attempt}|0||",
    "chunk-behind": _CHUNKED + "0||{hidden}",
    "folded-line": f"GET http://{NAME}/{{attempt}} HTTP/1.1|Host: {NAME}|X: y|  Z: z||",
    "two-hosts": f"GET http://{NAME}/{{attempt}} HTTP/1.1|Host: {NAME}|Host: {OTHER}||",
    "no-host": f"GET http://{NAME}/{{attempt}} HTTP/1.1||",
    "pipelined": f"GET http://{NAME}/a HTTP/1.1|Host: {NAME}||GET http://{OTHER}/{{attempt}} HTTP/1.1|Host: {OTHER}||",
    "newlines": f"GET http://{NAME}/a HTTP/1.1\\nHost: {NAME}\\n\\n{{hidden}}",
    "other-target": f"GET http://{OTHER}/{{attempt}} HTTP/1.1|Host: {NAME}||",
    "other-host": f"GET http://{NAME}/{{attempt}} HTTP/1.1|Host: {OTHER}||",
    "user": f"GET http://{NAME}@{OTHER}/{{attempt}} HTTP/1.1|Host: {OTHER}||",
    "user-and-port": f"GET http://{NAME}:80@{OTHER}/{{attempt}} HTTP/1.1|Host: {NAME}||",
    "fragment": f"GET http://{NAME}#@{OTHER}/{{attempt}} HTTP/1.1|Host: {NAME}||",
    "tab": f"GET\\thttp://{NAME}/{{attempt}}\\tHTTP/1.1|Host: {NAME}||",
    "origin-form": "{hidden}",
    "connect-other": f"CONNECT {OTHER}:80 HTTP/1.1|Host: {NAME}:80||{{hidden}}",
    "connect-then-other": f"CONNECT {NAME}:80 HTTP/1.1|Host: {NAME}:80||{{hidden}}",
    "connect-as-another": f"CONNECT {NAME}:80 HTTP/1.1|Host: {NAME}:80|Sandboxbuild-Step: 2||{{hidden}}",
    "connect-connect": f"CONNECT {NAME}:80 HTTP/1.1|Host: {NAME}:80||CONNECT {{attempt}}:80 HTTP/1.1|Host: {NAME}:80||",
    "http2": "PRI /{attempt} HTTP/2.0||SM||",
}
PROXY_TRICKS: Lines = {
    f"trick-{name}": (
        *("tcp", *PROXY),
        text.format(hidden=get(f"trick-{name}", OTHER), attempt=f"attempt-trick-{name}"),
    )
    for name, text in _TRICKS.items()
}
HONEST: Lines = {"honest": ("name", NAME, "80", get("honest", NAME))}
# What a mutant's builds run under, so that nothing but its mutation opens anything.
_POLICY_OF_MUTANTS = f"""
[network]
ranges = ["203.0.113.0/24", "169.254.0.0/16"]

[network.run]
allow = ["{NAME}", "{METADATA}"]

[network.fetch]
allow = ["{FETCHED}"]
"""


class Tried(NamedTuple):
    """A build's attempts: the names of those that the world heard, and what the step says of each."""

    reached: frozenset[str]
    said: Mapping[str, str]
    log: str

    def of(self, *groups: Lines) -> set[str]:
        """Which attempts of `groups` reached the world. Each has to have been made."""
        names = {name for group in groups for name in group}
        assert names <= self.said.keys(), f"not tried: {sorted(names - self.said.keys())}\n{self.log}"
        return names & self.reached


class AttemptsBuilder(Builder):
    """The command in a network namespace, where the world's name server is the only one."""

    def __init__(self, folder: Path, network: OwnNetwork, resolv_conf: Path) -> None:
        super().__init__(folder)
        self._network = network
        self._resolv_conf = resolv_conf

    def argv(self, *arguments: str | Path) -> list[str]:
        swap = 'mount --bind "$0" "$(readlink -f /etc/resolv.conf)" && exec "$@"'
        inner = ["unshare", "--mount", "sh", "-c", swap, str(self._resolv_conf), *super().argv(*arguments)]
        return self._network.argv(*inner)


class Scene:
    """A world that hears attempts, and a context with the program that makes them."""

    def __init__(self, folder: Path, network: OwnNetwork, made: World, resolver: Resolver, ears: Sequence[Ear]) -> None:
        self.folder = folder
        self.network = network
        self.world = made
        self.resolver = resolver
        self._ears = ears
        self.builder = AttemptsBuilder(folder, network, resolver.folder / "resolv.conf")
        self.program = compile_attempts(folder)
        busybox = shutil.which("busybox")
        assert busybox, "busybox-static is not installed"
        self.busybox = Path(busybox).read_bytes()

    def heard(self) -> frozenset[str]:
        """The attempts that reached the world since it was last forgotten."""
        made = self.world
        lines = [
            line for line in (*made.lines, *(f"{line} {host}" for _, line, host in made.requests)) if "/redirect/" not in line
        ]
        packets = [data.decode("latin-1") for data in (*made.chunks, *(data for ear in self._ears for data in ear.heard))]
        return frozenset(_ATTEMPT.findall("\n".join([*lines, *packets, *made.server_names, *self.resolver.queries()])))

    def forget(self) -> None:
        made = self.world
        for kept in (made.lines, made.requests, made.chunks, made.server_names, *(ear.heard for ear in self._ears)):
            kept.clear()
        self.resolver.forget()

    def arguments(self, plans: Mapping[str, str], steps: Sequence[str], policy: str) -> list[str | Path]:
        """`plans` by file name, and `steps` that follow COPY; gives the build's last arguments."""
        copied = "".join(f"COPY {name} /\n" for name in ("attempts", "busybox", *plans))
        dockerfile = "FROM scratch\n" + copied + "".join(f"{step}\n" for step in steps)
        files = {"attempts": self.program, "busybox": self.busybox, "Dockerfile": dockerfile, **plans}
        (self.folder / "policy.toml").write_text(policy)
        return ["--no-cache", "--policy-file", self.folder / "policy.toml", self.builder.context(files)]

    def build(
        self, plans: Mapping[str, str], steps: Sequence[str], policy: str, *options: str, builder: Builder | None = None
    ) -> Tried:
        """One build, which must succeed: an attempt that fails is no error of the step."""
        self.forget()
        builder = builder or self.builder
        with builder.popen("run", "--progress", "plain", *options, *self.arguments(plans, steps, policy)) as process:
            overheard = self._listen_in(process.poll) if any(MARKER in step for step in steps) else frozenset()
            _, log = process.communicate(timeout=120)
        text = log.decode("utf-8", "replace")
        assert process.returncode == 0, text
        builder.check_nothing_is_left()
        said = dict(_SAID.findall(text))
        return Tried(self.heard() | overheard, said, text)

    def build_mutant(self, folder: Path, attempts: Lines, changes: Mapping[str, Mapping[str, str]]) -> Tried:
        """One build by a command with `changes` (mutants.make_mutant), in which each of `attempts` is made."""
        builder = AttemptsBuilder(folder, self.network, self.resolver.folder / "resolv.conf")
        builder.environment["PYTHONPATH"] = str(make_mutant(folder, changes))
        tried = self.build({"all": plan(HONEST, attempts)}, ('RUN ["/attempts", "/all"]',), _POLICY_OF_MUTANTS, builder=builder)
        assert tried.of(HONEST), tried.log
        return tried

    def _listen_in(self, ended: Callable[[], int | None]) -> frozenset[str]:
        """Listen on the loopback device of the step whose command line has MARKER, until all of FRAMES were heard there."""
        found: list[int] = []

        def is_there() -> bool:
            pid = find_process(MARKER)
            found.extend([pid] if pid else [])
            return bool(found) or ended() is not None

        wait_until(is_there, what="the step that sends frames")
        if not found:
            return frozenset()
        argv = ["nsenter", f"--net=/proc/{found[0]}/ns/net", "python3", "-c", _LISTENER, *FRAMES]
        return frozenset(subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout.split())


def compile_attempts(folder: Path) -> bytes:
    target = folder / "attempts.bin"
    source = Path(__file__).with_name("attempts.c")
    subprocess.run(["gcc", "-O1", "-static", "-o", target, source], check=True)
    return target.read_bytes()


def open_filter() -> str:
    """The default syscall filter, with each kind of socket allowed."""
    import json

    document: dict[str, Any] = json.loads(Path(packaged_folder(), "profiles", "syscalls", "default.json").read_text())
    kept = [rule for rule in document["syscalls"] if rule["names"] != ["socket"]]
    return json.dumps({**document, "syscalls": [*kept, {"names": ["socket"], "action": "SCMP_ACT_ALLOW"}]})


@contextmanager
def attempts_scene(folder: Path) -> Iterator[Scene]:
    """The whole world, with its addresses on the loopback device of a network namespace of its own."""
    addresses = (f"{WORLD}/32", f"{RESOLVER}/32", f"{PRIVATE_ADDRESS}/32", f"{METADATA_ADDRESS}/32", f"{WORLD_V6}/128")
    with ExitStack() as stack:
        network = stack.enter_context(OwnNetwork(*addresses))
        network.run("sh", "-c", 'echo "0 2147483647" > /proc/sys/net/ipv4/ping_group_range')
        resolver = Resolver(folder, RESOLVER)
        stack.callback(resolver.stop)
        network.call(resolver.start)
        made = network.call(lambda: stack.enter_context(world(folder, *TABLE, address="0.0.0.0")))
        resolver.table(TABLE)
        ears = network.call(lambda: [Ear(opened) for opened in _open_ears()])
        for ear in ears:
            stack.callback(ear.close)
        scene = Scene(folder, network, made, resolver, ears)
        yield scene
        scene.builder.remove_store()


def _open_ears() -> list[socket.socket]:
    """Every way to hear something that is no request: a packet socket for pings, datagrams, IPv6, an abstract socket."""
    v6 = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    _bind_soon(v6, (WORLD_V6, V6_PORT))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((WORLD, UDP_PORT))
    abstract = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    abstract.bind("\0" + ABSTRACT[1:])
    icmp = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    for stream in (v6, abstract):
        stream.listen(16)
    return [v6, udp, abstract, icmp]


def _bind_soon(opened: socket.socket, place: tuple[str, int]) -> None:
    """An IPv6 address is tentative for a moment after it was added (RFC 4862, 5.4)."""
    deadline = time.monotonic() + 10
    while True:
        try:
            opened.bind(place)
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
