"""A context's URL becomes a place without a credential, and the grant of exactly that place."""

from __future__ import annotations

import pytest

from sandboxbuild.errors import ContextError
from sandboxbuild.launcher.remotes import RemoteContext, host_grants, remote_context

REPOSITORY = "https://git.example.com/team/app.git"


def read(text: str, secret_ids: tuple[str, ...] = (), **environ: str) -> RemoteContext:
    return remote_context(text, environ, secret_ids)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("https://files.example.com/c.tar.gz", "https://files.example.com/c.tar.gz"),
        ("https://u:p@files.example.com/c.tar?x=1", "https://files.example.com/c.tar?x=1"),
        (f"{REPOSITORY}#main:sub", f"git+{REPOSITORY}#main:sub"),
        (f"{REPOSITORY}?ref=main&subdir=x", f"git+{REPOSITORY}?ref=main&subdir=x"),
        ("git://git.example.com/team/app", "git+https://git.example.com/team/app"),
        ("git://git.example.com/app#refs/heads/x", "git+https://git.example.com/app#refs/heads/x"),
        ("git://git.example.com/app#refs/heads/x#" + "a" * 40, "git+https://git.example.com/app#" + "a" * 40),
        ("git://token@git.example.com/app", "git+https://git.example.com/app"),
    ],
)
def test_the_sandbox_is_told_a_place_and_no_credential(text: str, where: str) -> None:
    assert read(text).where == where


def test_kanikos_pull_method_may_be_http() -> None:
    assert read("git://git.example.com/app", GIT_PULL_METHOD="http").where == "git+http://git.example.com/app"
    with pytest.raises(ContextError, match="GIT_PULL_METHOD"):
        read("git://git.example.com/app", GIT_PULL_METHOD="ssh")


def test_a_repository_is_granted_with_all_below_it_and_a_file_alone() -> None:
    assert [grant.url for grant in read(REPOSITORY).grants] == [f"{REPOSITORY}/"]
    assert [grant.url for grant in read("https://files.example.com/c.tar").grants] == ["https://files.example.com/c.tar"]


def test_a_login_comes_from_the_url_or_else_from_kanikos_variables() -> None:
    named = {"GIT_USERNAME": "name", "GIT_PASSWORD": "word"}
    assert read("https://u%40x:p@git.example.com/a.git", **named).grants[0][2:4] == ("u@x", "p")
    assert read(REPOSITORY, **named).grants[0][2:4] == ("name", "word")
    assert read(REPOSITORY, GIT_TOKEN="t", **named).grants[0][2:4] == ("t", "")


def test_kanikos_variables_are_not_for_files_of_the_web() -> None:
    assert read("https://files.example.com/c.tar", GIT_TOKEN="t").grants[0].user == ""


def test_secrets_log_in_to_the_repository_that_was_named() -> None:
    grants = read(REPOSITORY, ("GIT_AUTH_TOKEN", "GIT_AUTH_TOKEN.git.example.com", "GIT_AUTH_TOKEN.other.example.com")).grants
    assert [grant.secret_id for grant in grants] == ["", "GIT_AUTH_TOKEN.git.example.com", "GIT_AUTH_TOKEN"]
    assert {grant.url for grant in grants} == {f"{REPOSITORY}/"}


def test_a_secret_of_a_host_logs_in_and_opens_nothing() -> None:
    (grant,) = host_grants(["GIT_AUTH_TOKEN", "GIT_AUTH_TOKEN.git.example.com", "GIT_AUTH_TOKEN.a/b"])
    assert (grant.url, grant.opens) == ("https://git.example.com/", False)


@pytest.mark.parametrize(
    "text",
    ["git@git.example.com:a.git", "ssh://git.example.com/a.git", "https:///a.git", "https://h:x/a", "https://a b/", "git://"],
)
def test_what_cannot_be_fetched_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ContextError) as caught:
        read(text)
    assert text not in caught.value.message
