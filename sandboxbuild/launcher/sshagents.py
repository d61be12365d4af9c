"""The ssh agents of --ssh: one that runs already, or one of our own for the build's time that holds the given keys."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

from sandboxbuild.errors import UsageError
from sandboxbuild.gateway.config import AgentFrom

START_S: Final = 5.0
ADD_S: Final = 30.0


@contextmanager
def ssh_agents(requested: Sequence[tuple[str, tuple[str, ...]]], environ: Mapping[str, str]) -> Iterator[tuple[AgentFrom, ...]]:
    """Each id with the socket of its agent. An id without a path means SSH_AUTH_SOCK. Raises UsageError."""
    with ExitStack() as stack:
        yield tuple(AgentFrom(ssh_id, _socket(ssh_id, paths, environ, stack)) for ssh_id, paths in requested)


def _socket(ssh_id: str, paths: Sequence[str], environ: Mapping[str, str], stack: ExitStack) -> str:
    if not paths:
        paths = (environ.get("SSH_AUTH_SOCK", ""),)
        if not paths[0]:
            raise UsageError(f"--ssh {ssh_id}: no agent is running (SSH_AUTH_SOCK is not set)", hint=f"--ssh {ssh_id}=SOCKET")
    kinds = [_kind(ssh_id, path) for path in paths]
    if kinds == ["socket"]:
        return os.path.abspath(paths[0])
    if "socket" in kinds:
        raise UsageError(f"--ssh {ssh_id}: a socket can't be given beside other paths")
    return stack.enter_context(_agent_of_keys(ssh_id, paths))


def _kind(ssh_id: str, path: str) -> str:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise UsageError(f"--ssh {ssh_id}: {path!r} can't be used: {error.strerror}") from error
    return "socket" if stat.S_ISSOCK(mode) else "key"


@contextmanager
def _agent_of_keys(ssh_id: str, keys: Sequence[str]) -> Iterator[str]:
    """An agent with these keys; gone with the block. Keys with a passphrase can't be read: nobody is there to ask."""
    agent, adder = shutil.which("ssh-agent"), shutil.which("ssh-add")
    if agent is None or adder is None:
        raise UsageError(
            f"--ssh {ssh_id}: keys need ssh-agent and ssh-add", hint="install openssh-client, or give an agent's socket"
        )
    with tempfile.TemporaryDirectory(prefix="sandboxbuild-ssh-") as folder:
        path = os.path.join(folder, "agent")
        with subprocess.Popen([agent, "-D", "-a", path], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
            try:
                _wait_for(path, ssh_id)
                _add_keys(adder, path, ssh_id, keys)
                yield path
            finally:
                process.terminate()


def _wait_for(path: str, ssh_id: str) -> None:
    deadline = time.monotonic() + START_S
    while not os.path.exists(path):
        if time.monotonic() > deadline:
            raise UsageError(f"--ssh {ssh_id}: ssh-agent doesn't start")
        time.sleep(0.005)


def _add_keys(adder: str, path: str, ssh_id: str, keys: Sequence[str]) -> None:
    environment = {**os.environ, "SSH_AUTH_SOCK": path, "SSH_ASKPASS_REQUIRE": "never"}
    done = subprocess.run(
        [adder, "-q", "--", *keys],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=ADD_S,
        check=False,
        start_new_session=True,  # without a terminal to ask for a passphrase
    )
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()[:300]
        raise UsageError(f"--ssh {ssh_id}: a key can't be used: {said!a}", hint="keys with a passphrase need a running agent")
