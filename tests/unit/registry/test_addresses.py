from __future__ import annotations

import pytest

from sandboxbuild.registry.addresses import classify, is_loopback_host


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("93.184.216.34", "public"),
        ("2606:2800:220:1:248:1893:25c8:1946", "public"),
        ("127.0.0.1", "loopback"),
        ("127.9.9.9", "loopback"),
        ("::1", "loopback"),
        ("10.1.2.3", "private"),
        ("172.31.0.1", "private"),
        ("192.168.1.1", "private"),
        ("100.64.0.1", "private"),
        ("fd12::1", "private"),
        ("192.0.2.1", "reserved"),
        ("198.18.0.1", "reserved"),
        ("240.0.0.1", "reserved"),
        ("169.254.169.254", "forbidden"),
        ("169.254.1.1", "forbidden"),
        ("fe80::1", "forbidden"),
        ("fd00:ec2::254", "forbidden"),
        ("100.100.100.200", "forbidden"),
        ("168.63.129.16", "forbidden"),
        ("0.0.0.0", "forbidden"),
        ("::", "forbidden"),
        ("224.0.0.1", "forbidden"),
        ("::ffff:169.254.169.254", "forbidden"),
        ("64:ff9b::a9fe:a9fe", "forbidden"),
        ("2002:a9fe:a9fe::1", "forbidden"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:10.0.0.1", "private"),
        ("fe80::1%eth0", "forbidden"),
        ("0.1.2.3", "forbidden"),
        ("fec0::1", "private"),
        ("ff02::1", "forbidden"),
        ("64:ff9b::5db8:d822", "public"),
        ("64:ff9b:1::1", "reserved"),
        ("2001:0:1::1", "reserved"),
        ("2606::5efe:a9fe:a9fe", "forbidden"),
    ],
)
def test_an_address_has_one_class(address: str, kind: str) -> None:
    assert classify(address) == kind


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "[::1]", "127.1.2.3"])
def test_loopback_hosts_say_so(host: str) -> None:
    assert is_loopback_host(host)


@pytest.mark.parametrize("host", ["localhost.example.com", "127.0.0.1.example.com", "10.0.0.1", "127.1", "2130706433"])
def test_other_hosts_are_not_loopback(host: str) -> None:
    assert not is_loopback_host(host)
