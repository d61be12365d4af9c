from __future__ import annotations

import base64

import pytest

from sandboxbuild.gateway.config import FetchGrant
from sandboxbuild.gateway.grants import Grants, covers, is_git_request
from sandboxbuild.launcher.grants import local_grants
from sandboxbuild.launcher.settings import RegistrySettings

REPOSITORY = "https://git.example.com/team/app.git/"
REFS = REPOSITORY + "info/refs?service=git-upload-pack"


def secrets(secret_id: str) -> bytes:
    return {"GIT_AUTH_TOKEN": b"t0ken\n", "GIT_AUTH_HEADER": b"Bearer abc"}.get(secret_id, b"")


def test_a_grant_covers_what_lies_below_it_and_nothing_beside_it() -> None:
    assert covers(REPOSITORY, REFS)
    assert not covers(REPOSITORY, "https://git.example.com/team/other.git/info/refs")
    assert not covers("https://files.example.com/a.tar", "https://files.example.com/a.tar.gz")


@pytest.mark.parametrize("dots", ["..", "%2e%2e", "%2E.", "..%2f..", "..%5c"])
def test_dots_that_climb_out_of_a_grant_are_not_covered(dots: str) -> None:
    assert not covers(REPOSITORY, f"{REPOSITORY}{dots}/other.git/info/refs")


def test_a_token_goes_to_gits_requests_of_the_granted_repository_alone() -> None:
    grants = Grants([FetchGrant(REPOSITORY, secret_id="GIT_AUTH_TOKEN")], secrets)
    expected = "Basic " + base64.b64encode(b"x-access-token:t0ken").decode()
    assert grants.find(REFS).authorization == expected
    assert grants.find(REPOSITORY + "raw/file").authorization == ""
    assert grants.find("https://git.example.com/x.git/info/refs?service=git-upload-pack").authorization == ""


def test_a_whole_header_is_sent_as_it_is() -> None:
    grants = Grants([FetchGrant(REPOSITORY, secret_id="GIT_AUTH_HEADER", is_header=True)], secrets)
    assert grants.find(REFS).authorization == "Bearer abc"


def test_no_credential_goes_over_plain_http_but_to_loopback() -> None:
    grants = Grants(
        [FetchGrant("http://git.example.com/", user="u", password="p"), FetchGrant("http://127.0.0.1:1/", user="u")]
    )
    assert grants.find("http://git.example.com/x").authorization == ""
    assert grants.find("http://127.0.0.1:1/x").authorization.startswith("Basic ")


def test_only_a_loopback_url_opens_loopback() -> None:
    grants = Grants([FetchGrant("https://git.example.com/"), FetchGrant("http://localhost:5000/")])
    assert grants.find("https://git.example.com/x")[:2] == (True, False)
    assert grants.find("http://localhost:5000/x")[:2] == (True, True)
    assert grants.find("http://localhost:5001/x")[:2] == (False, False)


def test_a_credential_alone_opens_no_address() -> None:
    granted = Grants([FetchGrant("https://git.example.com/", opens=False, user="u")]).find("https://git.example.com/x")
    assert not granted.opens
    assert granted.authorization


def test_gits_two_requests_are_known_from_others() -> None:
    assert is_git_request(REFS)
    assert is_git_request(REPOSITORY + "git-upload-pack")
    assert not is_git_request(REPOSITORY + "git-receive-pack")
    assert not is_git_request(REPOSITORY + "info/refs?service=git-receive-pack")


def test_registries_on_loopback_are_granted_and_others_are_not() -> None:
    settings = RegistrySettings(
        mirrors=("mirror.example.com",), maps=(("a.test", "127.0.0.1:5000/x"),), insecure_hosts=("localhost:1", "[::1]:2")
    )
    assert {grant.url for grant in local_grants(settings)} == {
        f"{scheme}://{host}/" for scheme in ("http", "https") for host in ("127.0.0.1:5000", "localhost:1", "[::1]:2")
    }
