from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.registry.routes import UnknownRequest, is_host, parse_request

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("method", "path", "query", "operation"),
    [
        ("GET", "/v2/", "", "ping"),
        ("GET", "/v2/app/manifests/latest", "", "manifest"),
        ("HEAD", f"/v2/team/app/manifests/{DIGEST}", "", "manifest"),
        ("PUT", "/v2/team/app/manifests/1.0", "", "manifest"),
        ("GET", f"/v2/team/app/blobs/{DIGEST}", "", "blob"),
        ("POST", "/v2/team/app/blobs/uploads/", "", "upload-start"),
        ("POST", "/v2/team/app/blobs/uploads/", f"mount={DIGEST}&from=library/base", "upload-start"),
        ("PATCH", "/v2/team/app/blobs/uploads/abc123", "", "upload"),
        ("PUT", "/v2/team/app/blobs/uploads/abc123", f"digest={DIGEST}", "upload"),
        ("GET", "/v2/team/app/tags/list", "n=10&last=x", "tags"),
        ("GET", f"/v2/team/app/referrers/{DIGEST}", "", "referrers"),
    ],
)
def test_the_requests_of_the_specification_parse(method: str, path: str, query: str, operation: str) -> None:
    assert parse_request(method, path, query).operation == operation


@pytest.mark.parametrize(
    ("method", "path", "query"),
    [
        ("DELETE", f"/v2/team/app/blobs/{DIGEST}", ""),
        ("DELETE", "/v2/team/app/manifests/1", ""),
        ("GET", "/v2/_catalog", ""),
        ("GET", "/v1/_ping", ""),
        ("GET", "/v2/team/../app/manifests/1", ""),
        ("GET", "/v2/team/%2e%2e/manifests/1", ""),
        ("GET", "/v2//app/manifests/1", ""),
        ("GET", "/v2/Team/manifests/1", ""),
        ("GET", "/v2/team/app/manifests/", ""),
        ("GET", "/v2/team/app/manifests/a/b", ""),
        ("GET", "/v2/team/app/manifests/" + "t" * 129, ""),
        ("GET", "/v2/team/app/blobs/sha256:../../x", ""),
        ("GET", "/v2/team/app/blobs/sha256:" + "A" * 64, ""),
        ("GET", f"/v2/team/app/blobs/{DIGEST}", "x=1"),
        ("GET", "/v2/team/app/manifests/1", "ns=docker.io"),
        ("POST", "/v2/team/app/blobs/uploads/", f"mount={DIGEST}"),
        ("POST", "/v2/team/app/blobs/uploads/", f"mount={DIGEST}&from=a&from=b"),
        ("POST", "/v2/team/app/blobs/uploads/", f"digest={DIGEST}"),
        ("PUT", "/v2/team/app/blobs/uploads/abc", ""),
        ("PUT", "/v2/team/app/blobs/uploads/abc", f"digest={DIGEST}&_state=x"),
        ("PATCH", "/v2/team/app/blobs/uploads/a%2Fb", ""),
        ("PATCH", "/v2/team/app/blobs/uploads/", ""),
        ("PUT", f"/v2/team/app/blobs/{DIGEST}", ""),
        ("GET", "/v2/" + "a/" * 200 + "manifests/1", ""),
        ("CONNECT", "/v2/", ""),
    ],
)
def test_anything_else_is_unknown(method: str, path: str, query: str) -> None:
    with pytest.raises(UnknownRequest):
        parse_request(method, path, query)


def test_a_mount_needs_a_token_for_both_repositories() -> None:
    found = parse_request("POST", "/v2/team/app/blobs/uploads/", f"mount={DIGEST}&from=library/base")
    assert found.scopes == ("repository:team/app:pull,push", "repository:library/base:pull")


def test_reading_needs_no_right_to_push() -> None:
    assert parse_request("GET", "/v2/team/app/manifests/1", "").scopes == ("repository:team/app:pull",)


@given(st.text("/abv2.%-_:@ ?#\\\0é", max_size=60))
@settings(max_examples=120, deadline=None)
def test_what_parses_has_no_dotted_or_empty_segment(rest: str) -> None:
    try:
        found = parse_request("GET", f"/v2/{rest}", "")
    except UnknownRequest:
        return
    assert found.operation == "ping" or not {"", ".", ".."} & set(f"{found.repository}/{found.reference or 'x'}".split("/"))
    assert "%" not in rest


@pytest.mark.parametrize("text", ["registry.example.com", "registry.example.com:5000", "localhost:5000", "[::1]:5000"])
def test_hosts_are_hosts(text: str) -> None:
    assert is_host(text)


@pytest.mark.parametrize(
    "text", ["", "a/b", "user@host", "host:port", "a..b", "-a", "a b", "host:123456", "http://a", "a%2e", "[::1", "a\n"]
)
def test_other_text_is_no_host(text: str) -> None:
    assert not is_host(text)
