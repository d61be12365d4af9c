from __future__ import annotations

import pytest

from sandboxbuild.gateway.config import GatewayConfig
from sandboxbuild.launcher.gatewayconfig import gateway_config
from sandboxbuild.launcher.request import patience_s
from sandboxbuild.launcher.settings import BuildSettings, RegistrySettings


def config(registries: RegistrySettings = RegistrySettings(), **environ: str) -> GatewayConfig:  # noqa: B008 - a value
    return gateway_config(BuildSettings(registries=registries), build_id="b", pulls=(), pushes=(), environ=environ)


@pytest.mark.parametrize(
    ("environ", "bundle"),
    [
        ({}, ""),
        ({"REQUESTS_CA_BUNDLE": "/a", "CURL_CA_BUNDLE": "/b"}, "/a"),
        ({"CURL_CA_BUNDLE": "/b"}, "/b"),
        ({"REQUESTS_CA_BUNDLE": "/a", "SSL_CERT_FILE": "/c"}, ""),
    ],
)
def test_authorities_of_the_environment_take_the_systems_place(environ: dict[str, str], bundle: str) -> None:
    assert config(**environ).ca_bundle == bundle


@pytest.mark.parametrize("timeout_s", [0.5, 60.0, 3600.0])
@pytest.mark.parametrize("mirrors", [(), ("a.example.com",), ("a.example.com", "b.example.com", "c.example.com")])
def test_the_executor_waits_longer_than_the_gateway(timeout_s: float, mirrors: tuple[str, ...]) -> None:
    registries = RegistrySettings(mirrors=mirrors, timeout_s=timeout_s)
    told = config(registries)
    assert told.idle_timeout_s == timeout_s
    places = 1 + len(mirrors)
    assert patience_s(registries) > places * (told.connect_timeout_s + 3 * told.idle_timeout_s)
