"""Promise 1, from outside: while a push runs, nothing of the sandbox has the registry's password, its memory included."""

from __future__ import annotations

import base64
import json
import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.builder import Builder, processes_naming, wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

CANARY = "canary-f3b1c7d29e8a"
BUSYBOX = Path("/usr/bin/busybox") if Path("/usr/bin/busybox").exists() else Path("/bin/busybox")
PIECE_BYTES = 16 * 1024 * 1024
OVERLAP_BYTES = 1024


def needles(password: str) -> list[bytes]:
    """The password as it is, and as the base64 of every alignment has it."""
    found = [password.encode()]
    for padding in range(3):
        encoded = base64.b64encode(b"x" * padding + password.encode())
        found.append(encoded[4:-4])
    return found


def sandbox_processes(store: Path) -> list[int]:
    """Processes in another user namespace than ours that have the store mounted."""
    ours = os.readlink("/proc/self/ns/user")
    pids = [int(line.split()[0]) for line in processes_naming(str(store))]
    return [pid for pid in pids if _user_namespace(pid) not in (ours, "")]


def _user_namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/user")
    except OSError:
        return ""


def memory_of(pid: int) -> Iterator[bytes]:
    """Every readable mapping of a process, in pieces that overlap."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, permissions, *_ = line.split()
        if not permissions.startswith("r") or line.endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
            continue
        start, end = (int(part, 16) for part in span.split("-"))
        try:
            with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
                for offset in range(start, end, PIECE_BYTES):
                    memory.seek(offset)
                    yield memory.read(min(end - offset, PIECE_BYTES + OVERLAP_BYTES))
        except OSError:
            continue


def pieces_of(path: str) -> Iterator[bytes]:
    """A file in pieces that overlap."""
    with open(path, "rb", buffering=0) as stream:
        before = b""
        while chunk := stream.read(PIECE_BYTES):
            yield before + chunk
            before = chunk[-OVERLAP_BYTES:]


def view_of(pid: int) -> Iterator[tuple[str, bytes]]:
    """What a process has: environment, arguments, memory, and every file that it can reach below its root."""
    for name in ("environ", "cmdline"):
        yield name, Path(f"/proc/{pid}/{name}").read_bytes()
    for chunk in memory_of(pid):
        yield "memory", chunk
    root = f"/proc/{pid}/root/"
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if os.path.join(folder, name) not in (root + "proc", root + "sys")]
        for name in files:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                for piece in pieces_of(path):
                    yield path.removeprefix(root), piece


def search(store: Path, wanted: list[bytes]) -> tuple[list[str], Counter[str]]:
    """Where the needles are in the sandbox, and what was looked at: pieces by the place they are in, and all of them."""
    hits: list[str] = []
    looked: Counter[str] = Counter()
    for pid in sandbox_processes(store):
        try:
            for name, data in view_of(pid):
                looked.update((name, "all"))
                hits += [f"{pid} {name}" for needle in wanted if needle in data]
        except OSError:
            continue
    return hits, looked


def push_in_background(builder: Builder, reference: str, dockerfile: str) -> tuple[threading.Thread, list[str]]:
    context = builder.context({"Dockerfile": dockerfile, "busybox": BUSYBOX.read_bytes()})
    logs: list[str] = []
    thread = threading.Thread(target=lambda: logs.append(builder("run", "-t", reference, "--push", context).log))
    thread.start()
    return thread, logs


DOCKERFILE = """FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "dd", "if=/dev/urandom", "of=/big", "bs=1M", "count=100"]
RUN ["/bin/busybox", "sleep", "4"]
"""


def test_the_password_is_nowhere_in_the_sandbox(builder: Builder, basic_registry: tuple[str, str, str, Path]) -> None:
    """`basic_registry` is (host, user, password, CA file) of a registry with TLS and basic authentication."""
    host, user, password, authority = basic_registry
    config = builder.folder / "docker"
    config.mkdir()
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    (config / "config.json").write_text(json.dumps({"auths": {host: {"auth": token}}}))
    builder.environment["DOCKER_CONFIG"] = str(config)
    builder.environment["SSL_CERT_FILE"] = str(authority)
    thread, logs = push_in_background(builder, f"{host}/team/secretive:1", DOCKERFILE)
    hits: list[str] = []
    looks: Counter[str] = Counter()
    wait_until(lambda: sandbox_processes(builder.store) or not thread.is_alive(), what="the sandbox")
    while thread.is_alive():
        found, looked = search(builder.store, needles(password))
        hits += found
        looks += looked
    thread.join()
    assert "ERROR" not in logs[0], logs[0]
    assert "push to the registry" in logs[0]
    assert looks["memory"] > 100, "the search saw the sandbox's memory"
    assert looks["all"] - looks["memory"] > 500, "and its files"
    assert any(name.startswith("sandboxbuild/store/blobs") for name in looks)
    assert hits == []
    (config / "config.json").unlink()
    refused = builder("run", "-t", f"{host}/team/secretive:2", "--push", builder.folder / "context")
    assert refused.status == 5, "the push needed the password"


def test_the_search_finds_what_is_there(builder: Builder) -> None:
    """The oracle can see: a canary that a Dockerfile puts into a step is found."""
    dockerfile = DOCKERFILE.replace("RUN [", f"ENV CANARY={CANARY}\nRUN [", 1)
    context = builder.context({"Dockerfile": dockerfile, "busybox": BUSYBOX.read_bytes()})
    thread = threading.Thread(target=lambda: builder("run", context))
    thread.start()
    hits: list[str] = []
    while thread.is_alive() and not hits:
        hits += search(builder.store, needles(CANARY))[0]
    thread.join()
    assert hits
