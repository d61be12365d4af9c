"""What a hostile RUN of a whole build tries with its network, in each profile. The oracle is a world in a network of its own.

One build a profile makes all attempts at once. Two builds more make them where a policy gives their defences up, and mutants of
the command make those that no policy opens: there the same world hears each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.profiles import runtime_or_skip
from tests.support.step_attempts import (
    DIRECT,
    FETCHED,
    FRAMES,
    HONEST,
    INSIDE,
    LITERALS,
    MARKER,
    METADATA,
    METADATA_LINES,
    NAME,
    NAMED,
    NO_NETWORK,
    OTHER,
    PRIVATE,
    PROXY_TRICKS,
    STAND_INS,
    UPLINK,
    Lines,
    Scene,
    Tried,
    attempts_scene,
    get,
    open_filter,
    plan,
    server_name_line,
)

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

PROFILES = ("plain", "runc", "gvisor")
RUNTIMES = {"plain": "namespaces", "runc": "runc", "gvisor": "runsc"}
FIRST: Lines = {"first": ("name", OTHER, "80", get("first", OTHER))}
CLOSED = f"""
[network]
ranges = ["203.0.113.0/24", "169.254.0.0/16"]

[network.run]
allow = ["{NAME}", "{INSIDE}", "{PRIVATE}", "{METADATA}"]

[network.fetch]
allow = ["{FETCHED}"]

[[network.rule]]
run = "*first*"
allow = ["{OTHER}"]
"""
OPEN = f"""
[network]
ranges = ["203.0.113.0/24", "127.0.0.0/8", "10.0.0.0/8"]

[network.run]
allow = [{{ host = "{NAME}", inspect = false }}, "{OTHER}", "{FETCHED}", "{INSIDE}", "{PRIVATE}", "*.tunnel.example.com"]

[capabilities]
add = ["NET_RAW"]

[syscalls]
file = "open.json"
"""
HOST_NETWORK = "[network]\nhost_network = true\n"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with attempts_scene(tmp_path_factory.mktemp("attempts")) as made:
        (made.folder / "open.json").write_text(open_filter())
        yield made


@pytest.fixture(scope="module")
def closed(scene: Scene) -> Callable[[str], Tried]:
    """The build in which each attempt is made under a policy that allows none of them, once for each profile."""
    done: dict[str, Tried] = {}
    groups = (HONEST, DIRECT, FRAMES, LITERALS, NAMED, server_name_line(), STAND_INS, METADATA_LINES, UPLINK, PROXY_TRICKS)
    plans = {"first": plan(FIRST), "all": plan(*groups), "none": plan(NO_NETWORK)}
    steps = ('RUN ["/attempts", "/first"]', 'RUN ["/attempts", "/all"]', 'RUN --network=none ["/attempts", "/none"]')

    def build(profile: str) -> Tried:
        runtime_or_skip(RUNTIMES[profile])
        if profile not in done:
            done[profile] = scene.build(plans, steps, CLOSED, "--profile", profile)
            assert done[profile].of(HONEST, FIRST) == {"honest", "first"}, done[profile].log
        return done[profile]

    return build


@pytest.fixture(scope="module")
def opened(scene: Scene) -> Tried:
    """The attempts that names, ranges, capabilities and a syscall filter of a policy can open, under such a policy."""
    plans = {"named": plan(NAMED, server_name_line(), NO_NETWORK), "frames": plan(FRAMES)}
    return scene.build(plans, ('RUN ["/attempts", "/named"]', f'RUN ["/attempts", "/frames", "{MARKER}"]'), OPEN)


@pytest.fixture(scope="module")
def unconfined(scene: Scene) -> Tried:
    """The attempts of a step that a policy gives the network which the command is in."""
    return scene.build({"direct": plan(DIRECT)}, ('RUN --network=host ["/attempts", "/direct"]',), HOST_NETWORK)


def only(group: Lines, *names: str) -> Lines:
    return {name: group[name] for name in names}


V4, V6 = only(DIRECT, "literal", "mapped"), only(DIRECT, "v6")


@pytest.mark.promise(4, "a step reaches no address that it has as a number")
@pytest.mark.parametrize("profile", PROFILES)
def test_an_address_reaches_nothing(profile: str, closed: Callable[[str], Tried]) -> None:
    assert closed(profile).of(V4) == set()


@pytest.mark.without_defence(4, "a step reaches no address that it has as a number")
def test_an_address_is_reached_over_the_hosts_network(unconfined: Tried) -> None:
    assert unconfined.of(V4) == set(V4)


@pytest.mark.promise(4, "a step has no IPv6 beside loopback")
@pytest.mark.parametrize("profile", PROFILES)
def test_an_ipv6_address_reaches_nothing(profile: str, closed: Callable[[str], Tried]) -> None:
    assert closed(profile).of(V6) == set()


@pytest.mark.without_defence(4, "a step has no IPv6 beside loopback")
def test_an_ipv6_address_is_reached_over_the_hosts_network(unconfined: Tried) -> None:
    assert unconfined.of(V6) == set(V6)


@pytest.mark.promise(4, "no datagram leaves a step")
@pytest.mark.parametrize("profile", PROFILES)
def test_datagrams_reach_nobody(profile: str, closed: Callable[[str], Tried]) -> None:
    assert closed(profile).of(only(DIRECT, "udp")) == set()


@pytest.mark.without_defence(4, "no datagram leaves a step")
def test_datagrams_are_heard_over_the_hosts_network(unconfined: Tried) -> None:
    assert unconfined.of(only(DIRECT, "udp")) == {"udp"}


@pytest.mark.promise(4, "no ICMP leaves a step")
@pytest.mark.parametrize("profile", PROFILES)
def test_pings_reach_nobody(profile: str, closed: Callable[[str], Tried]) -> None:
    assert closed(profile).of(only(DIRECT, "ping"), only(FRAMES, "raw")) == set()


@pytest.mark.without_defence(4, "no ICMP leaves a step")
def test_pings_are_heard_over_the_hosts_network(unconfined: Tried) -> None:
    assert unconfined.of(only(DIRECT, "ping")) == {"ping"}


@pytest.mark.promise(4, "a step gets no raw and no packet socket")
@pytest.mark.parametrize("profile", PROFILES)
def test_raw_and_packet_sockets_are_refused(profile: str, closed: Callable[[str], Tried]) -> None:
    tried = closed(profile)
    assert tried.of(FRAMES) == set()
    assert all(tried.said[name].startswith("socket: ") for name in FRAMES)


@pytest.mark.without_defence(4, "a step gets no raw and no packet socket")
def test_raw_and_packet_sockets_send_once_the_capability_and_the_filter_allow_it(opened: Tried) -> None:
    assert opened.of(FRAMES) == set(FRAMES)


@pytest.mark.promise(4, "a step asks no other name server")
@pytest.mark.parametrize("profile", PROFILES)
def test_another_name_server_hears_nothing(profile: str, closed: Callable[[str], Tried]) -> None:
    assert closed(profile).of(only(DIRECT, "dns")) == set()


@pytest.mark.without_defence(4, "a step asks no other name server")
def test_another_name_server_is_asked_over_the_hosts_network(unconfined: Tried) -> None:
    assert unconfined.of(only(DIRECT, "dns")) == {"dns"}


@pytest.mark.promise(4, "labels of names carry nothing out")
@pytest.mark.parametrize("profile", PROFILES)
def test_a_tunnel_in_labels_reaches_no_resolver(profile: str, closed: Callable[[str], Tried]) -> None:
    assert closed(profile).of(only(NAMED, "tunnel")) == set()


@pytest.mark.without_defence(4, "labels of names carry nothing out")
def test_a_wildcard_lets_labels_out(opened: Tried) -> None:
    assert opened.of(only(NAMED, "tunnel")) == {"tunnel"}


@pytest.mark.promise(4, "an allowed name that leads to loopback is refused")
@pytest.mark.parametrize("profile", PROFILES)
def test_a_name_that_resolves_to_loopback_is_refused(profile: str, closed: Callable[[str], Tried]) -> None:
    assert closed(profile).of(only(NAMED, "inside", "inside-proxy")) == set()


@pytest.mark.without_defence(4, "an allowed name that leads to loopback is refused")
def test_a_name_leads_to_loopback_once_its_range_is_open(opened: Tried) -> None:
    assert opened.of(only(NAMED, "inside", "inside-proxy")) == {"inside", "inside-proxy"}


@pytest.mark.promise(4, "no CONNECT to a private range")
@pytest.mark.parametrize("profile", PROFILES)
def test_connect_to_a_private_range_is_refused(profile: str, closed: Callable[[str], Tried]) -> None:
    assert closed(profile).of(only(NAMED, "connect-private")) == set()


@pytest.mark.without_defence(4, "no CONNECT to a private range")
def test_connect_leads_to_a_private_range_that_is_open(opened: Tried) -> None:
    assert opened.of(only(NAMED, "connect-private")) == {"connect-private"}


@pytest.mark.promise(4, "the proxy takes no address for a name")
@pytest.mark.parametrize("profile", PROFILES)
def test_the_proxy_refuses_addresses(profile: str, closed: Callable[[str], Tried]) -> None:
    assert closed(profile).of(LITERALS) == set()


@pytest.mark.without_defence(4, "the proxy takes no address for a name")
def test_the_proxy_would_carry_addresses_that_passed_for_names(scene: Scene, tmp_path: Path) -> None:
    names = {
        '    labels = name.split(".")\n': '    labels = name.removeprefix("203.0.113.").split(".")\n',
        '.fullmatch(labels[-1]) or ":"': '.match("x") or ":"',
    }
    admitted = {"    fitting = tuple(": "    named = named or (Allow(host, (80,)),)\n    fitting = tuple("}
    tried = scene.build_mutant(tmp_path, LITERALS, {"policy/names.py": names, "gateway/rules.py": admitted})
    assert tried.of(LITERALS) == set(LITERALS)


@pytest.mark.promise(4, "cloud metadata is never reached")
@pytest.mark.parametrize("profile", PROFILES)
def test_metadata_is_not_reached_with_every_range_open(profile: str, closed: Callable[[str], Tried]) -> None:
    assert closed(profile).of(METADATA_LINES) == set()


@pytest.mark.without_defence(4, "cloud metadata is never reached")
def test_metadata_would_be_reached_if_it_were_an_address_like_others(scene: Scene, tmp_path: Path) -> None:
    change = {"        if kind == METADATA:\n": "        if kind == METADATA and not within(address, ranges):\n"}
    tried = scene.build_mutant(tmp_path, METADATA_LINES, {"gateway/rules.py": change})
    assert tried.of(METADATA_LINES) == {"metadata", "metadata-proxy"}


@pytest.mark.promise(4, "a TLS server name other than the one asked for is cut")
@pytest.mark.parametrize("profile", PROFILES)
def test_another_server_name_is_cut(profile: str, closed: Callable[[str], Tried]) -> None:
    assert closed(profile).of(server_name_line()) == set()


@pytest.mark.without_defence(4, "a TLS server name other than the one asked for is cut")
def test_another_server_name_passes_where_nobody_looks(opened: Tried) -> None:
    assert opened.of(server_name_line()) == {"server-name"}


HOSTS = only(NAMED, "host", "second-host", "absolute")


@pytest.mark.promise(4, "a Host or target other than the name asked for is cut")
@pytest.mark.parametrize("profile", PROFILES)
def test_another_host_is_cut(profile: str, closed: Callable[[str], Tried]) -> None:
    assert closed(profile).of(HOSTS) == set()


@pytest.mark.without_defence(4, "a Host or target other than the name asked for is cut")
def test_another_host_passes_where_nobody_looks(opened: Tried) -> None:
    assert opened.of(HOSTS) == set(HOSTS)


@pytest.mark.promise(4, "a redirect to a refused host ends there")
@pytest.mark.parametrize("profile", PROFILES)
def test_a_redirect_to_a_refused_host_ends_there(profile: str, closed: Callable[[str], Tried]) -> None:
    assert closed(profile).of(only(NAMED, "redirect")) == set()


@pytest.mark.without_defence(4, "a redirect to a refused host ends there")
def test_a_redirect_is_followed_to_a_host_that_is_named(opened: Tried) -> None:
    assert opened.of(only(NAMED, "redirect")) == {"redirect"}


SMUGGLED = only(NAMED, "lengths", "coding", "folded", "newlines", "chunks")


@pytest.mark.promise(4, "no request is smuggled past the gateway")
@pytest.mark.parametrize("profile", PROFILES)
def test_smuggled_requests_are_cut(profile: str, closed: Callable[[str], Tried]) -> None:
    assert closed(profile).of(SMUGGLED) == set()


@pytest.mark.without_defence(4, "no request is smuggled past the gateway")
def test_smuggled_requests_pass_where_nobody_looks(opened: Tried) -> None:
    assert opened.of(SMUGGLED) == set(SMUGGLED)


@pytest.mark.promise(4, "the proxy is not tricked")
@pytest.mark.parametrize("profile", PROFILES)
def test_the_proxy_is_not_tricked(profile: str, closed: Callable[[str], Tried]) -> None:
    assert closed(profile).of(PROXY_TRICKS) == set()


OTHERS = only(NAMED, "other-step", "fetched")


@pytest.mark.promise(4, "a step can't use names of another step or of the executor")
@pytest.mark.parametrize("profile", PROFILES)
def test_names_of_others_are_refused(profile: str, closed: Callable[[str], Tried]) -> None:
    assert closed(profile).of(OTHERS) == set()


@pytest.mark.promise(4, "a stand-in address that a step didn't ask for stands for nothing")
@pytest.mark.parametrize("profile", PROFILES)
def test_stand_ins_of_another_step_stand_for_nothing(profile: str, closed: Callable[[str], Tried]) -> None:
    """The step before asked for another name, whose address has one of these numbers."""
    assert closed(profile).of(STAND_INS) == set()


@pytest.mark.without_defence(4, "a step can't use names of another step or of the executor")
def test_names_that_every_step_has_are_reached(opened: Tried) -> None:
    assert opened.of(OTHERS) == set(OTHERS)


@pytest.mark.promise(4, "--network=none leaves neither names nor a proxy")
@pytest.mark.parametrize("profile", PROFILES)
def test_no_network_means_no_name_and_no_proxy(profile: str, closed: Callable[[str], Tried]) -> None:
    assert closed(profile).of(NO_NETWORK) == set()


@pytest.mark.without_defence(4, "--network=none leaves neither names nor a proxy")
def test_a_step_with_a_network_has_both(opened: Tried) -> None:
    assert opened.of(NO_NETWORK) == set(NO_NETWORK)


@pytest.mark.promise(2, "abstract sockets of the host are out of a step's reach")
@pytest.mark.parametrize("profile", PROFILES)
def test_abstract_sockets_are_out_of_reach(profile: str, closed: Callable[[str], Tried]) -> None:
    assert closed(profile).of(only(DIRECT, "abstract")) == set()


@pytest.mark.without_defence(2, "abstract sockets of the host are out of a step's reach")
def test_abstract_sockets_are_reached_over_the_hosts_network(unconfined: Tried) -> None:
    assert unconfined.of(only(DIRECT, "abstract")) == {"abstract"}


@pytest.mark.promise(3, "a step finds no way to the executor's uplink")
@pytest.mark.parametrize("profile", PROFILES)
def test_the_uplink_is_out_of_reach(profile: str, closed: Callable[[str], Tried]) -> None:
    assert closed(profile).of(UPLINK) == set()
