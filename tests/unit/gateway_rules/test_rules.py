"""gateway.rules and policy.addresses: which names and addresses are let through."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.gateway.rules import FETCH, Admitted, Allowed, Asker, Refused, admit, decide
from sandboxbuild.policy.addresses import METADATA, PUBLIC, SPECIAL, classify, embedded_ipv4
from sandboxbuild.policy.isolation import Allow, NetworkRules, StepRule
from sandboxbuild.policy.network import _OPENABLE

STEP = Asker("1")
RULES = NetworkRules(
    run=(
        Allow("files.example.com", (443,)),
        Allow("*.example.org", (80, 443)),
        Allow("inside.example.com", (443,), ("10.1.0.0/16",)),
    ),
    fetch=(Allow("fetch.example.com", (443,)),),
    rules=(
        StepRule("test", "", (Allow("db.example.com", (5432,)),)),
        StepRule("", "pip *", (Allow("index.example.com", (443,)),)),
    ),
)
ANY = NetworkRules(run=(Allow("*", (80, 443)),))
PUBLIC_ADDRESS = "93.184.216.34"


def verdict(host: str, port: int = 443, *addresses: str, rules: NetworkRules = RULES, asker: Asker = STEP) -> Allowed | Refused:
    return decide(rules, asker, host, port, addresses or (PUBLIC_ADDRESS,))


@pytest.mark.parametrize(("host", "port"), [("files.example.com", 443), ("a.example.org", 80), ("a.b.example.org", 443)])
def test_named_host_and_port_is_allowed(host: str, port: int) -> None:
    outcome = verdict(host, port)
    assert isinstance(outcome, Allowed)
    assert outcome.addresses == (PUBLIC_ADDRESS,)


@pytest.mark.parametrize(
    ("host", "port", "code"),
    [
        ("files.example.com", 80, "port"),
        ("example.org", 443, "name"),
        ("xexample.org", 443, "name"),
        ("files.example.com.evil.example.net", 443, "name"),
        ("fetch.example.com", 443, "name"),
        ("Files.example.com", 443, "syntax"),
        ("files.example.com.", 443, "syntax"),
        (".files.example.com", 443, "syntax"),
        ("files..example.com", 443, "syntax"),
        ("files.example.com\0.example.org", 443, "syntax"),
        ("-a.example.org", 443, "syntax"),
        ("a_b.example.org", 443, "syntax"),
        ("ä.example.org", 443, "syntax"),
        ("a" * 64 + ".example.org", 443, "syntax"),
        (".".join(["a" * 50] * 5) + ".example.org", 443, "syntax"),
        ("", 443, "syntax"),
        ("files.example.com", 0, "syntax"),
        ("files.example.com", 65536, "syntax"),
    ],
)
def test_anything_else_is_refused(host: str, port: int, code: str) -> None:
    outcome = verdict(host, port)
    assert isinstance(outcome, Refused)
    assert outcome.code == code


@pytest.mark.parametrize(
    "literal",
    ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "1.2.3.4", "::1", "[::1]", "fe80::1%lo", "0x",
     "a.0x7f", "::ffff:1.2.3.4", "93.184.216.34"],
)  # fmt: skip
def test_address_in_any_spelling_is_no_name(literal: str) -> None:
    outcome = verdict(literal, 443, rules=ANY)
    assert isinstance(outcome, Refused)
    assert outcome.code == "literal"


@pytest.mark.parametrize("name", ["metadata.google.internal", "metadata", "instance-data"])
def test_metadata_name_is_refused_whatever_the_policy_says(name: str) -> None:
    rules = NetworkRules(run=(Allow(name, (80,)), Allow("*", (80,))), learning=True)
    assert verdict(name, 80, rules=rules) == Refused(f"{name} is a cloud's metadata service", "no policy opens it", METADATA)


METADATA_ADDRESSES = [
    "169.254.169.254", "169.254.170.2", "169.254.0.23", "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254",
    "fd20:ce::254", "::ffff:169.254.169.254", "::169.254.169.254", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a9fe:a9fe",
    "64:ff9b:1:a9fe:a9:fe00::", "2002:a9fe:a9fe::1", "2001:0:1:2:3:4:5601:5601", "fe80::5efe:a9fe:a9fe", "::ffff:0:a9fe:a9fe",
]  # fmt: skip


@pytest.mark.parametrize("address", METADATA_ADDRESSES)
def test_metadata_address_is_refused_whatever_the_ranges_say(address: str) -> None:
    everything = ("0.0.0.0/0", "::/0")
    rules = NetworkRules(run=(Allow("*", (80,), everything),), ranges=everything, learning=True)
    outcome = verdict("innocent.example.com", 80, PUBLIC_ADDRESS, address, rules=rules)
    assert isinstance(outcome, Refused)
    assert outcome.code == METADATA


SPECIAL_ADDRESSES = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "127.0.0.1", "127.255.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.1.1",
    "100.64.0.1", "192.0.2.1", "198.51.100.7", "203.0.113.80", "198.18.0.1", "198.19.255.255", "224.0.0.1", "240.0.0.1",
    "255.255.255.255", "192.88.99.1", "::", "::1", "::ffff:10.0.0.1", "::ffff:93.184.216.34", "::7f00:1", "64:ff9b::7f00:1",
    "2002:7f00:1::", "2001::1", "2001:db8::1", "fc00::1", "fd12::1", "fe80::1", "fec0::1", "ff02::1", "100::1", "3fff::1",
]  # fmt: skip


@pytest.mark.parametrize("address", SPECIAL_ADDRESSES)
def test_address_that_is_not_public_is_refused_without_a_range(address: str) -> None:
    outcome = verdict("files.example.com", 443, address)
    assert isinstance(outcome, Refused)
    assert outcome.code == "address"


def test_range_opens_its_addresses_for_its_entry_alone() -> None:
    assert isinstance(verdict("inside.example.com", 443, "10.1.2.3"), Allowed)
    assert isinstance(verdict("inside.example.com", 443, "10.2.2.3"), Refused)
    assert isinstance(verdict("files.example.com", 443, "10.1.2.3"), Refused)


def test_range_of_the_policy_opens_its_addresses_for_all_entries() -> None:
    rules = RULES._replace(ranges=("203.0.113.0/24",))
    outcome = verdict("files.example.com", 443, "203.0.113.80", rules=rules)
    assert isinstance(outcome, Allowed)


def test_translated_private_address_needs_both_ranges() -> None:
    rules = RULES._replace(ranges=("64:ff9b::/96",))
    assert isinstance(verdict("files.example.com", 443, "64:ff9b::5db8:d822", rules=rules), Allowed)
    assert isinstance(verdict("files.example.com", 443, "64:ff9b::a00:1", rules=rules), Refused)


def test_only_judged_addresses_are_given() -> None:
    outcome = verdict("files.example.com", 443, "10.0.0.1", PUBLIC_ADDRESS, "fe80::1%lo", "nonsense")
    assert isinstance(outcome, Allowed)
    assert outcome.addresses == (PUBLIC_ADDRESS,)


def test_rule_of_a_stage_holds_for_that_stage_alone() -> None:
    assert isinstance(verdict("db.example.com", 5432, asker=Asker("2", stage="test")), Allowed)
    assert isinstance(verdict("db.example.com", 5432, asker=Asker("2", stage="other")), Refused)


def test_rule_of_a_run_holds_for_texts_that_fit() -> None:
    assert isinstance(verdict("index.example.com", asker=Asker("2", run="pip install x")), Allowed)
    assert isinstance(verdict("index.example.com", asker=Asker("2", run="curl x; pip install")), Refused)


def test_fetch_has_its_own_names() -> None:
    assert isinstance(verdict("fetch.example.com", asker=Asker("f", FETCH)), Allowed)
    assert isinstance(verdict("files.example.com", asker=Asker("f", FETCH)), Refused)


def test_hint_is_the_policy_line() -> None:
    outcome = verdict("other.example.com", 8443)
    assert isinstance(outcome, Refused)
    assert outcome.hint == 'allow it with: [network.run] allow = ["other.example.com:8443"]'


def test_any_name_needs_two_labels() -> None:
    assert isinstance(admit(ANY, STEP, "intranet"), Refused)
    assert isinstance(admit(ANY, STEP, "www.example.com"), Admitted)


def test_learning_opens_names_but_no_private_address() -> None:
    rules = NetworkRules(learning=True)
    assert isinstance(verdict("new.example.com", 8443, rules=rules), Allowed)
    assert isinstance(verdict("new.example.com", 8443, "10.0.0.1", rules=rules), Refused)


def test_refused_text_is_printable() -> None:
    outcome = verdict("\x1b[2J\u202e" + "x" * 1000)
    assert isinstance(outcome, Refused)
    assert outcome.reason.isascii() and outcome.reason.isprintable() and len(outcome.reason) < 600


@settings(max_examples=200)
@given(st.integers(0, 2**32 - 1))
def test_public_ipv4_is_what_python_calls_global(number: int) -> None:
    address = ipaddress.IPv4Address(number)
    if classify(address).kind == PUBLIC:
        assert address.is_global and not address.is_multicast


@settings(max_examples=200)
@given(st.integers(0, 2**128 - 1))
def test_public_ipv6_is_what_python_calls_global(number: int) -> None:
    address = ipaddress.IPv6Address(number)
    if classify(address).kind == PUBLIC:
        assert (address.is_global and not address.is_multicast and embedded_ipv4(address) is None) or address.is_global


@settings(max_examples=200)
@given(st.text(max_size=300))
def test_any_text_gets_a_verdict(host: str) -> None:
    outcome = admit(ANY, STEP, host, 443)
    assert isinstance(outcome, Admitted | Refused)
    if isinstance(outcome, Admitted):
        assert host == host.lower() and host.isascii() and not host.endswith(".")


def test_ranges_that_a_policy_may_open_are_special_ones_and_never_metadata() -> None:
    special = {network for kind, network in SPECIAL if kind != METADATA}
    assert set(_OPENABLE) <= special
