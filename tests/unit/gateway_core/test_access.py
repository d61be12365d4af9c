from __future__ import annotations

import pytest

from sandboxbuild.gateway.access import BuildAccess, Declined, Granted, build_access, matches
from sandboxbuild.policy.isolation import RegistryAccess, SourceRules
from sandboxbuild.registry.routes import parse_request

HOST = "registry.example.com"
DIGEST = "sha256:" + "a" * 64
ACCESS = build_access(
    RegistryAccess(pull=("registry.example.com/library/*",), pushes=("registry.example.com/team/app:1.0",)),
    SourceRules(),
    ["registry.example.com/team/cache"],
)


def judge(method: str, path: str, query: str = "", access: BuildAccess = ACCESS, host: str = HOST) -> Granted | Declined:
    return access.judge(host, parse_request(method, path, query))


@pytest.mark.parametrize(
    ("method", "path", "query"),
    [
        ("GET", "/v2/", ""),
        ("GET", "/v2/library/debian/manifests/12", ""),
        ("GET", f"/v2/library/debian/blobs/{DIGEST}", ""),
        ("HEAD", f"/v2/team/app/blobs/{DIGEST}", ""),
        ("POST", "/v2/team/app/blobs/uploads/", ""),
        ("POST", "/v2/team/app/blobs/uploads/", f"mount={DIGEST}&from=library/debian"),
        ("POST", "/v2/team/app/blobs/uploads/", f"mount={DIGEST}&from=team/cache"),
        ("PUT", "/v2/team/app/manifests/1.0", ""),
        ("PUT", f"/v2/team/app/manifests/{DIGEST}", ""),
        ("PUT", "/v2/team/cache/manifests/anything", ""),
        ("GET", "/v2/team/cache/manifests/anything", ""),
    ],
)
def test_what_the_build_was_started_for_is_granted(method: str, path: str, query: str) -> None:
    assert isinstance(judge(method, path, query), Granted)


@pytest.mark.parametrize(
    ("method", "path", "query"),
    [
        ("GET", "/v2/library/debian/extra/manifests/12", ""),
        ("GET", "/v2/other/debian/manifests/12", ""),
        ("GET", f"/v2/team/app/blobs/{DIGEST}", ""),
        ("GET", "/v2/team/app/manifests/1.0", ""),
        ("GET", "/v2/team/app/tags/list", ""),
        ("PUT", "/v2/team/app/manifests/latest", ""),
        ("PUT", "/v2/team/app2/manifests/1.0", ""),
        ("PUT", "/v2/library/debian/manifests/12", ""),
        ("POST", "/v2/library/debian/blobs/uploads/", ""),
        ("POST", "/v2/team/app/blobs/uploads/", f"mount={DIGEST}&from=secret/repo"),
        ("GET", "/v2/team/other/blobs/uploads/abc", ""),
    ],
)
def test_anything_else_is_declined(method: str, path: str, query: str) -> None:
    assert isinstance(judge(method, path, query), Declined)


def test_another_host_is_declined_even_for_a_ping() -> None:
    assert isinstance(judge("GET", "/v2/", host="other.example.com"), Declined)
    assert isinstance(judge("PUT", "/v2/team/app/manifests/1.0", host="other.example.com"), Declined)


def test_the_hint_is_the_line_that_would_allow_a_pull() -> None:
    verdict = judge("GET", "/v2/other/x/manifests/1")
    assert verdict == Declined(
        "pulling from registry.example.com/other/x isn't allowed",
        'allow it with: [registries] pull = ["registry.example.com/other/x"] and from_dockerfile = true',
    )


def test_a_demanded_digest_refuses_tags_and_takes_digests() -> None:
    access = build_access(RegistryAccess(pull=("**",)), SourceRules(require_digest=True))
    assert isinstance(judge("GET", "/v2/a/manifests/1", access=access), Declined)
    assert isinstance(judge("GET", f"/v2/a/manifests/{DIGEST}", access=access), Granted)


def test_sources_that_are_not_listed_are_refused_by_tag_and_by_digest() -> None:
    access = build_access(RegistryAccess(pull=("**",)), SourceRules(allow=("registry.example.com/library/**:12*",)))
    assert isinstance(judge("GET", "/v2/library/debian/manifests/12.5", access=access), Granted)
    assert isinstance(judge("GET", f"/v2/library/debian/manifests/{DIGEST}", access=access), Granted)
    assert isinstance(judge("GET", "/v2/library/debian/manifests/11", access=access), Declined)
    assert isinstance(judge("GET", f"/v2/other/manifests/{DIGEST}", access=access), Declined)


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("**", "registry.example.com/a/b", True),
        ("registry.example.com/**", "registry.example.com/a/b", True),
        ("registry.example.com/*", "registry.example.com/a/b", False),
        ("registry.example.com/a*/b", "registry.example.com/abc/b", True),
        ("registry.example.com/a", "registry.example.com/a/b", False),
        ("*.example.com/a", "registry.example.com/a", True),
        ("registry.example.com/team/**/x", "registry.example.com/team/x", True),
        ("registry.example.com", "registry.example.com.evil.example", False),
    ],
)
def test_patterns_go_by_segments(pattern: str, name: str, fits: bool) -> None:
    assert matches(pattern, name) is fits
