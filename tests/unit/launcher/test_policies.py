"""Profile, policy file and command line together: what a build may do, and what is refused before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandboxbuild.errors import PolicyError, SandboxbuildError, UsageError
from sandboxbuild.launcher.gatewayconfig import gateway_config
from sandboxbuild.launcher.policies import check_base, resolve_policy
from sandboxbuild.launcher.settings import BuildSettings
from sandboxbuild.policy.isolation import Isolation, SourceRules
from sandboxbuild.protocol.events import BaseResolved

DIGEST = f"sha256:{'a' * 64}"
BASE = "registry.example.com/team/base"


def resolved(tmp_path: Path, policy: str = "", **settings: object) -> Isolation:
    if policy:
        (tmp_path / "policy.toml").write_text(policy)
        settings["policy_file"] = str(tmp_path / "policy.toml")
    return resolve_policy(BuildSettings(**settings), {})  # type: ignore[arg-type]  # fields by name


def test_steps_have_the_gateways_network_by_default(tmp_path: Path) -> None:
    step = resolved(tmp_path).step
    assert (step.network, step.allowed_ports, step.host_network, step.proxy) == ("gateway", (80, 443), False, False)


def test_the_ports_of_steps_are_those_of_the_policy_and_the_command_line(tmp_path: Path) -> None:
    isolation = resolved(tmp_path, '[network.run]\nallow = ["a.example.com:8080"]', allow_hosts=("b.example.com:22",))
    assert isolation.step.allowed_ports == (22, 8080)
    assert [entry.host for entry in isolation.network.run] == ["b.example.com", "a.example.com"]


@pytest.mark.parametrize(
    ("policy", "settings", "error"),
    [
        ("", {"network": "host"}, PolicyError),
        ('[network]\nmode = "none"', {"allow_hosts": ("a.example.com",)}, PolicyError),
        ("", {"allow_hosts": ("10.0.0.1",)}, UsageError),
        ("", {"allow_hosts": ("metadata.google.internal",)}, UsageError),
        ("", {"allow_hosts": ("*",)}, UsageError),
        ("", {"profile": "none-such"}, PolicyError),
        ("[network]\nhostnetwork = true", {}, PolicyError),
    ],
)
def test_what_can_not_be_granted_is_an_error(
    tmp_path: Path, policy: str, settings: dict[str, object], error: type[SandboxbuildError]
) -> None:
    with pytest.raises(error):
        resolved(tmp_path, policy, **settings)


def test_no_network_takes_the_hosts_away_as_well(tmp_path: Path) -> None:
    step = resolved(tmp_path, "[network]\nhost_network = true", network="none").step
    assert (step.network, step.allowed_ports, step.host_network) == ("none", (), False)


def pulls_of(isolation: Isolation) -> tuple[str, ...]:
    config = gateway_config(BuildSettings(), isolation, build_id="b", pulls=(BASE,), pushes=(), environ={})
    return config.registries.pull


def test_what_may_be_pulled_is_the_policys_the_dockerfiles_or_both(tmp_path: Path) -> None:
    pull = '[registries]\npull = ["registry.example.com/x/*"]\n'
    assert pulls_of(resolved(tmp_path)) == (BASE,)
    assert pulls_of(resolved(tmp_path, pull)) == ("registry.example.com/x/*",)
    assert pulls_of(resolved(tmp_path, pull + "from_dockerfile = true\n")) == ("registry.example.com/x/*", BASE)
    assert pulls_of(resolved(tmp_path, pull, learn="file"))[-1] == "**"


@pytest.mark.parametrize(
    ("rules", "reference", "is_fine"),
    [
        (SourceRules(), f"{BASE}:1", True),
        (SourceRules(require_digest=True), f"{BASE}:1", False),
        (SourceRules(require_digest=True), f"{BASE}@{DIGEST}", True),
        (SourceRules(allow=(f"{BASE}@{DIGEST}",)), f"{BASE}@{DIGEST}", True),
        (SourceRules(allow=(f"{BASE}@{DIGEST}",)), f"{BASE}:1", False),
        (SourceRules(allow=(f"{BASE}:1.*",)), f"{BASE}:1.2", True),
        (SourceRules(allow=(f"{BASE}:1.*",)), f"{BASE}:2", False),
        (SourceRules(digests=((f"{BASE}:1", DIGEST),)), f"{BASE}:1", True),
        (SourceRules(digests=((f"{BASE}:1", DIGEST.replace("a", "b")),)), f"{BASE}:1", False),
    ],
)
def test_a_base_is_held_to_the_sources(rules: SourceRules, reference: str, is_fine: bool) -> None:
    base = BaseResolved(reference, "linux/amd64", DIGEST)
    if is_fine:
        check_base(rules, base)
        return
    with pytest.raises(PolicyError):
        check_base(rules, base)
