"""Fetched contexts and agents in builds by a user who is not root."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.test_normal_user import BUSYBOX, HEAD, UID, UserBuilder, as_user  # noqa: F401
from tests.support.builder import run_tool
from tests.support.githttp import git_server, repository

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

LINES = HEAD + (
    'RUN --mount=type=ssh,id=k,required [ -S "$SSH_AUTH_SOCK" ]\n'
    'RUN --mount=type=bind,target=/mnt [ "$(stat -c %u:%g /mnt/file)" = 0:0 ]\n'
    'COPY . /all\nRUN [ "$(stat -c %u:%g:%a /all/file)" = 0:0:644 ]\n'
)


@pytest.mark.parametrize("subordinate", ["tester:200000:65536\n", "somebody:200000:65536\n"])
def test_archives_repositories_and_keys_work_for_a_user(
    as_user: Callable[[str], UserBuilder],  # noqa: F811
    tmp_path: Path,
    subordinate: str,
) -> None:
    builder = as_user(subordinate)
    context = builder.context({"busybox": BUSYBOX.read_bytes(), "file": "x\n", "Dockerfile": LINES})
    with tarfile.open(builder.folder / "c.tar.gz", "w:gz") as archive:
        archive.add(context, arcname=".")
    key = builder.folder / "key"
    run_tool("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
    os.chown(key, UID, UID)
    builder.run("--ssh", f"k={key}", f"tar://{builder.folder}/c.tar.gz")
    with git_server(tmp_path / "repositories") as server:
        repository(server.root / "app", {"busybox*": BUSYBOX.read_bytes(), "file": "x\n", "Dockerfile": LINES})
        builder.run("--ssh", f"k={key}", server.url("app"))
