"""Promise 1, from outside: while a push runs, nothing of the sandbox has the registry's password, its memory included."""

from __future__ import annotations

import base64
import json
import os
import stat
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.builder import Builder, wait_until
from tests.support.mutants import make_mutant
from tests.support.profiles import runtime_or_skip
from tests.support.sandboxes import descendants

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

CANARY = "canary-f3b1c7d29e8a"
BUSYBOX = Path("/usr/bin/busybox") if Path("/usr/bin/busybox").exists() else Path("/bin/busybox")
RUNTIMES = {"plain": "namespaces", "runc": "runc", "gvisor": "runsc"}
PIECE_BYTES = 16 * 1024 * 1024
OVERLAP_BYTES = 1024


def needles(password: str) -> list[bytes]:
    """The password as it is, and as the base64 of every alignment has it."""
    found = [password.encode()]
    for padding in range(3):
        encoded = base64.b64encode(b"x" * padding + password.encode())
        found.append(encoded[4:-4])
    return found


def sandbox_processes(launcher: int) -> list[int]:
    """Processes below the launcher that are in another user namespace than ours; in gVisor its kernel and its file server."""
    ours = os.readlink("/proc/self/ns/user")
    return [pid for pid in sorted(descendants(launcher)) if _user_namespace(pid) not in (ours, "")]


def _user_namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/user")
    except OSError:
        return ""


def memory_of(pid: int) -> Iterator[bytes]:
    """Every readable mapping of a process, in pieces that overlap."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, permissions, *_ = line.split()
        if not permissions.startswith("r") or line.endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")) or "/memfd:" in line:
            continue
        start, end = (int(part, 16) for part in span.split("-"))
        try:
            with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
                for offset in range(start, end, PIECE_BYTES):
                    memory.seek(offset)
                    yield memory.read(min(end - offset, PIECE_BYTES + OVERLAP_BYTES))
        except OSError:
            continue


def memory_files_of(pid: int, known: set[object]) -> Iterator[bytes]:
    """What a process has in files without a name, such as the memory of all that runs on gVisor's kernel; holes left out."""
    for name in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{name}"
        try:
            status = os.stat(path)
            if not os.readlink(path).startswith("/memfd:") or (status.st_dev, status.st_ino) in known:
                continue
            known.add((status.st_dev, status.st_ino))
            yield from data_of(path)
        except OSError:
            continue


def data_of(path: str) -> Iterator[bytes]:
    """A file with holes, in pieces that overlap."""
    with open(path, "rb", buffering=0) as stream:
        offset = 0
        while True:
            try:
                offset = os.lseek(stream.fileno(), offset, os.SEEK_DATA)
            except OSError:
                return  # ENXIO: nothing but a hole is left
            piece = stream.read(PIECE_BYTES)
            yield piece
            if not piece:
                return
            offset += len(piece) - OVERLAP_BYTES if len(piece) == PIECE_BYTES else len(piece)


def pieces_of(path: str) -> Iterator[bytes]:
    """A file in pieces that overlap."""
    with open(path, "rb", buffering=0) as stream:
        before = b""
        while chunk := stream.read(PIECE_BYTES):
            yield before + chunk
            before = chunk[-OVERLAP_BYTES:]


def view_of(pid: int, known: set[object]) -> Iterator[tuple[str, bytes]]:
    """What a process has: environment, arguments, memory, and every file that it can reach below its root.

    Files and roots that are in `known`, another process's too, are left out.
    """
    for name in ("environ", "cmdline"):
        yield name, Path(f"/proc/{pid}/{name}").read_bytes()
    for chunk in memory_of(pid):
        yield "memory", chunk
    for chunk in memory_files_of(pid, known):
        yield "memory", chunk
    place = os.stat(f"/proc/{pid}/root")
    if (place.st_dev, place.st_ino) in known:
        return
    known.add((place.st_dev, place.st_ino))
    root = f"/proc/{pid}/root/"
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if os.path.join(folder, name) not in (root + "proc", root + "sys")]
        for name in files:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                for piece in pieces_of(path):
                    yield path.removeprefix(root), piece


def search(launcher: int, store: Path, wanted: list[bytes]) -> tuple[list[str], Counter[str]]:
    """Where the needles are in the sandbox and in its store, and what was looked at: pieces by where they are."""
    hits: list[str] = []
    looked: Counter[str] = Counter()
    known: set[object] = set()
    for pid in sandbox_processes(launcher):
        try:
            for name, data in view_of(pid, known):
                looked.update((name if name in ("memory", "environ") else "files",))
                hits += [f"{pid} {name}" for needle in wanted if needle in data]
        except OSError:
            continue
    for path in (os.path.join(folder, name) for folder, _, names in os.walk(store) for name in names):
        try:
            pieces = list(pieces_of(path)) if stat.S_ISREG(os.lstat(path).st_mode) else []
        except OSError:
            continue
        looked.update({"store": len(pieces)})
        hits += [path for piece in pieces for needle in wanted if needle in piece]
    return hits, looked


DOCKERFILE = """FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "dd", "if=/dev/urandom", "of=/big", "bs=1M", "count=60"]
RUN ["/bin/busybox", "sleep", "3"]
"""


def searched(
    builder: Builder, wanted: list[bytes], dockerfile: str, *options: str, until: str = ""
) -> tuple[list[str], Counter[str], str]:
    """A build that is searched from its first process to its end, or until something is found in `until`.

    Gives what was found and looked at, and the log.
    """
    context = builder.context({"Dockerfile": dockerfile, "busybox": BUSYBOX.read_bytes()})
    hits: list[str] = []
    looks: Counter[str] = Counter()
    log = builder.folder / "log"
    with builder.popen("run", "--progress", "plain", *options, context) as process:
        assert process.stderr is not None
        reader = threading.Thread(target=lambda: log.write_bytes(process.stderr.read()))
        reader.start()
        wait_until(lambda: sandbox_processes(process.pid) or process.poll() is not None, what="the sandbox")
        while process.poll() is None:
            found, looked = search(process.pid, builder.store, wanted)
            hits += found
            looks += looked
            if until and any(hit.endswith(" " + until) for hit in found):
                process.terminate()
        reader.join()
    return hits, looks, log.read_text()


@pytest.fixture
def login(builder: Builder, basic_registry: tuple[str, str, str, Path]) -> tuple[str, str]:
    """A repository that wants a password, which the operator's configuration has, and the password."""
    host, user, password, authority = basic_registry
    config = builder.folder / "docker"
    config.mkdir()
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    (config / "config.json").write_text(json.dumps({"auths": {host: {"auth": token}}}))
    builder.environment["DOCKER_CONFIG"] = str(config)
    builder.environment["SSL_CERT_FILE"] = str(authority)
    return f"{host}/team/secretive", password


@pytest.mark.promise(1, "no password in the sandbox's environment, arguments, files or memory")
@pytest.mark.parametrize("profile", ["plain", "runc", "gvisor"])
def test_the_password_is_nowhere_in_the_sandbox(builder: Builder, login: tuple[str, str], profile: str) -> None:
    runtime_or_skip(RUNTIMES[profile])
    repository, password = login
    options = ("--profile", profile, "-t", f"{repository}:1", "--push")
    hits, looks, log = searched(builder, needles(password), DOCKERFILE, *options)
    assert "ERROR" not in log, log
    assert "push to the registry" in log
    assert looks["memory"] > 20, "the search saw the sandbox's memory"
    assert looks["environ"] >= 2
    assert looks["store"] > 20, "and its files"
    assert looks["files"] > 500 or profile == "gvisor"
    assert hits == []
    (builder.folder / "docker" / "config.json").unlink()
    refused = builder("run", "--profile", profile, "-t", f"{repository}:2", "--push", builder.folder / "context")
    assert refused.status == 5, "the push needed the password"


TELLING = {
    "launcher/sandbox.py": {
        "environment=plan.bundle.environment,": (
            "environment=(*plan.bundle.environment, "
            "('LOGIN', open(os.environ['DOCKER_CONFIG'] + '/config.json').read().replace(' ', ''))),"
        ),
    },
}


@pytest.mark.without_defence(1, "no password in the sandbox's environment, arguments, files or memory")
def test_a_launcher_that_hands_the_password_in_is_found_out(builder: Builder, login: tuple[str, str]) -> None:
    builder.environment["PYTHONPATH"] = str(make_mutant(builder.folder, TELLING))
    repository, password = login
    hits, _, log = searched(builder, needles(password), DOCKERFILE, "-t", f"{repository}:1", "--push")
    assert "ERROR" not in log, log
    assert {"environ", "memory"} <= {hit.partition(" ")[2] for hit in hits}


def test_the_search_sees_the_memory_of_what_runs_on_gvisor_s_kernel(builder: Builder) -> None:
    """The oracle can see: a canary that a Dockerfile puts into the environment of a step is found."""
    runtime_or_skip("runsc")
    dockerfile = (
        DOCKERFILE.replace("RUN [", f"ENV CANARY={CANARY}\nRUN [", 1).replace("count=60", "count=1").replace('"3"', '"60"')
    )
    hits, _, _ = searched(builder, needles(CANARY), dockerfile, "--profile", "gvisor", until="memory")
    assert "memory" in {hit.partition(" ")[2] for hit in hits}
