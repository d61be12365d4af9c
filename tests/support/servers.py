"""Real servers on a test's own loopback address: nginx with TLS, sshd, git daemon, PostgreSQL; each is gone with its block."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from tests.support.builder import run_tool

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]
NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 256; }}
http {{
  access_log off; server_names_hash_bucket_size 128;
{servers}
}}
"""
SITE = """
  server {{ listen {address}:443 ssl; listen {address}:80; server_name {name};
           ssl_certificate {folder}/{name}.pem; ssl_certificate_key {folder}/{name}.pem; location / {{ {what} }} }}
"""


@contextmanager
def tls_sites(folder: Path, address: str, authority: trustme.CA, sites: Mapping[str, Path | str]) -> Iterator[None]:
    """nginx on ports 80 and 443; each name gives the files of a folder, or what an http URL gives."""
    servers = []
    for name, what in sites.items():
        authority.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(str(folder / f"{name}.pem"))
        gives = f"root {what};" if isinstance(what, Path) else f"proxy_pass {what}; proxy_buffering off;"
        servers.append(SITE.format(folder=folder, address=address, name=name, what=gives))
    configuration = folder / "nginx.conf"
    configuration.write_text(NGINX.format(folder=folder, servers="".join(servers)))
    with _running(_program("nginx"), "-c", str(configuration)):
        await_port(address, 443)
        yield


@contextmanager
def ssh_server(folder: Path, address: str, authorized: Path) -> Iterator[str]:
    """sshd on port 22 for root with the keys of `authorized`; gives its line for known_hosts, without names."""
    key = folder / "host-key"
    run_tool("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
    Path("/run/sshd").mkdir(exist_ok=True)  # sshd's own: an empty folder for privilege separation
    options = {
        "ListenAddress": f"{address}:22", "HostKey": key, "AuthorizedKeysFile": authorized, "StrictModes": "no", "UsePAM": "no",
        "PidFile": "none", "PasswordAuthentication": "no", "PermitRootLogin": "prohibit-password",
    }  # fmt: skip
    configuration = folder / "sshd_config"
    configuration.write_text("".join(f"{name} {value}\n" for name, value in options.items()))
    with _running(_program("sshd"), "-D", "-e", "-f", str(configuration)):
        await_port(address, 22)
        yield key.with_suffix(".pub").read_text().strip()


@contextmanager
def git_daemon(root: Path, address: str) -> Iterator[None]:
    """git's own protocol on port 9418, for all repositories below `root`."""
    with _running("git", "daemon", f"--listen={address}", "--export-all", "--reuseaddr", f"--base-path={root}", str(root)):
        await_port(address, 9418)
        yield


@contextmanager
def postgres(address: str, certificate: trustme.LeafCert) -> Iterator[None]:
    """PostgreSQL on port 5432 that takes the user postgres over TLS and refuses everybody else."""
    if not POSTGRES:
        pytest.fail("PostgreSQL isn't installed: see tests/debian-packages.txt")
    owner = pwd.getpwnam("postgres")
    with tempfile.TemporaryDirectory(prefix="sandboxbuild-postgres-") as name:
        top = Path(name)
        data = top / "data"
        os.chown(top, owner.pw_uid, owner.pw_gid)
        _as_postgres(str(POSTGRES[0] / "initdb"), "--no-sync", "--auth=trust", "--encoding=UTF8", "-D", str(data), cwd=top)
        (data / "server.pem").write_bytes(certificate.private_key_and_cert_chain_pem.bytes())
        (data / "server.pem").chmod(0o600)
        shutil.chown(data / "server.pem", owner.pw_uid, owner.pw_gid)
        (data / "pg_hba.conf").write_text("hostssl all postgres 127.0.0.0/8 trust\n")
        settings = {
            "listen_addresses": address, "unix_socket_directories": "", "ssl": "on", "fsync": "off",
            "ssl_cert_file": "server.pem", "ssl_key_file": "server.pem", "max_connections": "20", "shared_buffers": "2MB",
        }  # fmt: skip
        (data / "postgresql.auto.conf").write_text("".join(f"{name} = '{value}'\n" for name, value in settings.items()))
        with _running(str(POSTGRES[0] / "postgres"), "-D", str(data), user=owner.pw_uid, group=owner.pw_gid, cwd=top):
            await_port(address, 5432)
            yield


def _as_postgres(*argv: str, cwd: Path) -> None:
    owner = pwd.getpwnam("postgres")
    done = subprocess.run(argv, cwd=cwd, user=owner.pw_uid, group=owner.pw_gid, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def _program(name: str) -> str:
    found = shutil.which(name, path="/usr/sbin:/usr/bin")
    if found is None:
        pytest.fail(f"{name} isn't installed: see tests/debian-packages.txt")
    return found


@contextmanager
def _running(*argv: str, **options: object) -> Iterator[None]:
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload]
    try:
        yield
    except BaseException:
        process.terminate()
        print(process.communicate(timeout=10)[1].decode("utf-8", "replace"))
        raise
    finally:
        process.terminate()
        process.communicate(timeout=10)


def await_port(address: str, port: int, timeout_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection((address, port), 1).close()
            return
        except OSError:
            assert time.monotonic() < deadline_s, f"nobody listens on {address}:{port}"
            time.sleep(0.05)
