"""Programs that know nothing of us, in steps: curl, wget, git by https, ssh and its own protocol, psql, and their servers.

Names are dnsmasq's, whom the command is told to ask by --dns; TLS is of an authority that only the image has.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme

from tests.support.builder import Builder, run_tool
from tests.support.githttp import git_server, repository
from tests.support.images import busybox_layout
from tests.support.outside import Resolver
from tests.support.servers import POSTGRES, git_daemon, postgres, ssh_server, tls_sites
from tests.support.world import own_address

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

FILES, GIT, DATABASE = "files.example.com", "git.example.com", "db.example.com"
PROGRAMS = ("curl", "wget", "git", "ssh", "/usr/lib/git-core/git-remote-https")
POLICY = f"""
[network]
ranges = ["127.0.0.0/8"]
proxy = PROXY
[network.run]
allow = ["{FILES}", {{ host = "{GIT}", ports = [22, 443, 9418] }}, {{ host = "{DATABASE}", ports = [5432] }}]
"""
DOCKERFILE = f"""FROM base
COPY tools /
ENV GIT_SSL_CAINFO=/etc/test/ca.pem GIT_SSH_COMMAND="ssh -o UserKnownHostsFile=/etc/test/known_hosts -o BatchMode=yes"
RUN curl -sSf --cacert /etc/test/ca.pem https://{FILES}/hello http://{FILES}/hello > /curl
RUN /usr/bin/wget -q --ca-certificate=/etc/test/ca.pem -O /wget https://{FILES}/hello
RUN git clone -q https://{GIT}/project/.git /by-https
RUN git clone -q git://{GIT}/project/.git /by-git
RUN --mount=type=ssh git clone -q ssh://root@{GIT}ROOT/project/.git /by-ssh
RUN psql "host={DATABASE} user=postgres sslmode=verify-full sslrootcert=/etc/test/ca.pem" -Atc \\
    "select 6 * 7, ssl from pg_stat_ssl where pid = pg_backend_pid()" > /psql
RUN export no_proxy='*' NO_PROXY='*'; curl -sSf --cacert /etc/test/ca.pem https://{FILES}/hello > /direct && \\
    git clone -q https://{GIT}/project/.git /direct-git
"""


class Internet(NamedTuple):
    """`root` holds the repositories; `key` logs in by ssh; `files` are what the image must have to believe its servers."""

    resolver: Resolver
    root: Path
    key: Path
    files: dict[str, bytes]


@pytest.fixture(scope="module")
def internet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Internet]:
    folder = tmp_path_factory.mktemp("internet")
    address, authority, resolver = own_address(), trustme.CA(), Resolver(folder)
    (folder / "www").mkdir()
    (folder / "www/hello").write_text("hello\n")
    folder.chmod(0o755)
    key = folder / "key"
    run_tool("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
    repository(folder / "repositories/project", {"README": "read me\n"})
    with ExitStack() as stack:
        resolver.start()
        stack.callback(resolver.stop)
        resolver.table(dict.fromkeys((FILES, GIT, DATABASE), address))
        smart = stack.enter_context(git_server(folder / "repositories"))
        sites = {FILES: folder / "www", GIT: f"http://{smart.host}"}
        stack.enter_context(tls_sites(folder, address, authority, sites))
        stack.enter_context(git_daemon(folder / "repositories", address))
        known = stack.enter_context(ssh_server(folder, address, key.with_suffix(".pub")))
        stack.enter_context(postgres(address, authority.issue_cert(DATABASE)))
        trusted = {"etc/test/ca.pem": authority.cert_pem.bytes(), "etc/test/known_hosts": f"{GIT} {known}\n".encode()}
        yield Internet(resolver, folder / "repositories", key, trusted)


def tools() -> dict[str, bytes]:
    """The programs, psql, and all that they are linked with."""
    paths = [shutil.which(name) or name for name in PROGRAMS]
    client = str(POSTGRES[0] / "psql")
    linked = {path for program in [*paths, client] for path in re.findall(r"(/\S+) \(0x", run_tool("ldd", program))}
    return {**{path: Path(path).read_bytes() for path in [*paths, *linked]}, "/usr/bin/psql": Path(client).read_bytes()}


@pytest.mark.parametrize("proxy", ["false", "true"])
def test_programs_reach_their_servers(builder: Builder, internet: Internet, proxy: str) -> None:
    files = {f"tools{path}": content for path, content in tools().items()}
    trusted = {f"tools/{path}": content for path, content in internet.files.items()}
    context = builder.context({"Dockerfile": DOCKERFILE.replace("ROOT", str(internet.root)), **files, **trusted})
    policy, root, log = builder.folder / "policy.toml", builder.folder / "rootfs", builder.folder / "audit"
    policy.write_text(POLICY.replace("PROXY", proxy))
    flags = ["--dns", internet.resolver.address, "--policy-file", policy, "--audit-log", log, "-o", f"type=local,dest={root}"]
    builder.run("--ssh", f"default={internet.key}", f"--build-context=base=oci-layout://{busybox_layout()}", *flags, context)
    assert (root / "curl").read_text() == "hello\nhello\n"
    assert [(root / name).read_text() for name in ("wget", "direct")] == ["hello\n"] * 2
    assert [(root / name / "README").read_text() for name in ("by-https", "by-git", "by-ssh", "direct-git")] == [
        "read me\n"
    ] * 4
    assert (root / "psql").read_text() == "42|t\n"
    records = [json.loads(line) for line in log.read_text().splitlines()]
    reached = {(record["name"], record["port"]) for record in records if record["kind"] == "connect"}
    assert reached == {(FILES, 80), (FILES, 443), (GIT, 22), (GIT, 443), (GIT, 9418), (DATABASE, 5432)}
    assert [record for record in records if record["kind"] == "refuse"] == []
    assert {FILES, GIT, DATABASE} <= set(internet.resolver.queries())


def test_a_registry_is_found_by_the_name_server_that_is_given(builder: Builder, registry: str, tmp_path: Path) -> None:
    name = f"registry.example.com:{registry.rpartition(':')[2]}"
    run_tool("skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{busybox_layout()}:latest", f"docker://{registry}/base:1")
    context = builder.context({"Dockerfile": f"FROM {name}/base:1\nRUN true\n"})
    (tmp_path / "names").mkdir()
    resolver = Resolver(tmp_path / "names")
    resolver.start()
    try:
        flags = ("--dns", resolver.address, "--insecure-registry", name, "--pull", context)
        assert "registry.example.com has no address" in builder.fail(5, *flags).last_error
        resolver.table({"registry.example.com": "127.0.0.1"})
        builder.run(*flags)
        assert "registry.example.com" in resolver.queries()
    finally:
        resolver.stop()
