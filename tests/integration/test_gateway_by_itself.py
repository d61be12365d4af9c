"""`sandboxbuild gateway serve`: a gateway on TCP for sandboxes elsewhere; what it asks of who comes, and how it ends."""

from __future__ import annotations

import secrets
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandboxbuild.errors import PolicyError, SandboxbuildError
from sandboxbuild.oci.platform import parse_platform
from sandboxbuild.oci.reference import parse_reference
from sandboxbuild.registry.pull import resolve_image
from sandboxbuild.registry.uplink import Uplink, UplinkAddress, UplinkTransport
from tests.integration.registry_fixtures import running_registry
from tests.support.builder import COMMAND, run_tool
from tests.support.images import busybox_layout

pytestmark = pytest.mark.root


@contextmanager
def served(folder: Path, *options: str, token: str) -> Iterator[UplinkAddress]:
    """A running gateway; it must end by SIGTERM with status 0."""
    file = folder / "token"
    file.write_text(token + "\n")
    file.chmod(0o600)
    argv = [COMMAND, "gateway", "serve", "--token-file", str(file), *options]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        host, _, port = process.stdout.readline().decode().strip().rpartition(":")
        assert port, "it said no address"
        yield UplinkAddress(host=host, port=int(port), token=token)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


@pytest.fixture
def image(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "registry").mkdir()
    with running_registry(tmp_path / "registry") as registry:
        name = f"{registry.host}/busybox:1"
        run_tool("skopeo", "copy", "--dest-tls-verify=false", f"oci:{busybox_layout()}:latest", f"docker://{name}")
        yield name


def test_who_shows_the_token_gets_what_the_policy_allows(tmp_path: Path, image: str) -> None:
    reference = parse_reference(image)
    policy = tmp_path / "policy.toml"
    policy.write_text(f'[registries]\npull = ["{reference.name}"]\n')
    log = tmp_path / "audit"
    with served(tmp_path, "--policy-file", str(policy), "--audit-log", str(log), token=secrets.token_hex(32)) as address:
        transport = UplinkTransport(Uplink(address))
        assert resolve_image(transport, reference, parse_platform("linux/amd64")).layers
        with pytest.raises(PolicyError, match="isn't allowed"):
            resolve_image(transport, parse_reference(f"{reference.registry}/other:1"), parse_platform("linux/amd64"))
        for wrong in ("", secrets.token_hex(32), address.token[:-1]):
            stranger = UplinkTransport(Uplink(address._replace(token=wrong)))
            with pytest.raises(SandboxbuildError):
                resolve_image(stranger, reference, parse_platform("linux/amd64"))
        command_lines = "".join(
            path.read_bytes().decode("latin-1") for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()
        )
        assert address.token not in command_lines
    assert '"kind":"pull"' in log.read_text()
    assert '"kind":"refuse"' in log.read_text()
    with socket.socket() as late, pytest.raises(OSError, match="refused"):
        late.connect((address.host, address.port))


@pytest.mark.parametrize(("token", "mode", "status"), [("short", 0o600, 2), ("a" * 64, 0o644, 3)])
def test_a_weak_token_and_one_that_others_can_read_are_refused(tmp_path: Path, token: str, mode: int, status: int) -> None:
    file = tmp_path / "token"
    file.write_text(token)
    file.chmod(mode)
    done = subprocess.run(
        [COMMAND, "gateway", "serve", "--token-file", str(file)], check=False, timeout=60, capture_output=True
    )
    assert done.returncode == status
