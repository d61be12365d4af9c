"""Links of an image, a context and a stage point at what the executor has beside the root that is built: nothing is reached.

The image and the context have files of their own at the places that the links name, which say "inside". What lies there
outside of the root, in the store, is TEXT.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from pathlib import Path

import pytest

from tests.support.builder import Builder, Done
from tests.support.mutants import make_mutant
from tests.support.profiles import runtime_or_skip

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]
BUSYBOX = Path("/usr/bin/busybox") if Path("/usr/bin/busybox").exists() else Path("/bin/busybox")
RUNTIMES = {"plain": "namespaces", "runc": "runc", "gvisor": "runsc"}
TEXT = "canary-beside-the-root-40d1"
PLACE = "sandboxbuild/store/canary"
UP = "../" * 9
READS = 7  # files /stolen0 and on

DOCKERFILE = f"""FROM scratch AS first
COPY busybox /bin/busybox
COPY inside /{PLACE}
RUN ["/bin/busybox", "sh", "-c", "B=/bin/busybox; $B ln -s /sandboxbuild/store /out; $B ln -s {UP}sandboxbuild/store /up; \
$B ln -s /{PLACE} /read; $B ln -s {UP}{PLACE} /read-up"]
COPY inside /out/blobs/planted
COPY inside /up/blobs/planted-up
COPY inside /out/planted-flat
ADD small.tar /out/unpacked/
WORKDIR /out/worked
COPY --chown=0:0 inside relative

FROM scratch
COPY busybox /bin/busybox
COPY --from=first /read /stolen0
COPY --from=first /read-up /stolen1
COPY --from=first /out/canary /stolen2
COPY absolute /stolen3
COPY climbing /stolen4
RUN --mount=type=bind,from=first,source=/out,target=/m ["/bin/busybox", "cp", "/m/canary", "/stolen5"]
RUN --mount=type=bind,from=first,source=/read-up,target=/m ["/bin/busybox", "cp", "/m", "/stolen6"]
RUN --mount=type=cache,id=../../../cached,target=/c ["/bin/busybox", "touch", "/c/cached-file"]
"""
FOLLOWING = {
    "system/files.py": {
        "_IN_ROOT: Final = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS": "_IN_ROOT: Final = 0",
        "_BENEATH: Final = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS": "_BENEATH: Final = 0",
    },
    "fstree/tree.py": {
        "if entry is None or not entry.is_symlink:": "if True:",
        "if entry is not None and not entry.is_directory:": "if False:",
    },
    "executor/trees.py": {"os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW": "os.O_RDONLY | os.O_DIRECTORY"},
    "executor/copy.py": {"_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW": "_DIRECTORY: Final = os.O_RDONLY"},
}


def small_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo("entry")
        member.size = 6
        tar.addfile(member, io.BytesIO(b"packed"))
    return buffer.getvalue()


class Tried:
    """A build of DOCKERFILE; `rootfs` is what it exported, `folder` where its store and all else lies."""

    def __init__(self, folder: Path, *options: str, mutant: bool = False) -> None:
        self.builder = Builder(folder)
        self.folder = folder
        self.rootfs = folder / "rootfs"
        if mutant:
            self.builder.environment["PYTHONPATH"] = str(make_mutant(folder, FOLLOWING))
        files = {"Dockerfile": DOCKERFILE, "inside": "inside", PLACE: "inside", "small.tar": small_tar()}
        context = self.builder.context({**files, "busybox": BUSYBOX.read_bytes()})
        (context / "absolute").symlink_to(f"/{PLACE}")
        (context / "climbing").symlink_to(f"{UP}{PLACE}")
        (folder / "first").mkdir()
        self.builder.run(*options, self._first(folder / "first"))
        (self.builder.store / "canary").write_text(TEXT)
        self.builder.store.chmod(0o777)
        output = f"type=rootfs,dest={self.rootfs}"
        self.done: Done = self.builder("run", "--progress", "plain", "--no-cache", *options, "-o", output, context)

    def _first(self, folder: Path) -> Path:
        """A build that makes the store."""
        (folder / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
        return folder

    def planted(self) -> set[str]:
        """What the Dockerfile's names are in the store itself or beside it."""
        named = {"planted", "planted-up", "planted-flat", "unpacked", "worked", "relative", "cached", "cached-file"}
        places = (self.builder.store, self.builder.store / "blobs", self.folder, self.folder.parent)
        return named & {name for place in places for name in os.listdir(place)}

    def stolen(self) -> list[str]:
        return [(self.rootfs / f"stolen{number}").read_text() for number in range(READS)]


@pytest.mark.promise(8, "links of images, stages and contexts lead nowhere outside")
@pytest.mark.parametrize("profile", ["plain", "runc", "gvisor"])
def test_no_link_reads_or_writes_beside_the_root(tmp_path: Path, profile: str) -> None:
    runtime_or_skip(RUNTIMES[profile])
    (tmp_path / "build").mkdir()
    tried = Tried(tmp_path / "build", "--profile", profile)
    assert tried.done.status == 0, tried.done.log
    assert tried.stolen() == ["inside"] * READS
    assert tried.planted() == set()
    assert (tried.builder.store / "canary").read_text() == TEXT
    tried.builder.check_nothing_is_left()
    tried.builder.remove_store()


@pytest.mark.without_defence(8, "links of images, stages and contexts lead nowhere outside")
def test_where_links_are_followed_from_the_executor_s_root_they_lead_into_its_store(tmp_path: Path) -> None:
    (tmp_path / "build").mkdir()
    tried = Tried(tmp_path / "build", mutant=True)
    assert "planted" in tried.planted(), tried.done.log
    tried.builder.remove_store()


USERS = """root:x:0:0::/root:/bin/sh
twice:x:1001:1001::/:
twice:x:0:0::/:
many:x:1002:1002:a:b:c:d:e:f
short:x:1003
spaced :x:0:0::/:
:x:0:0::/:
letters:x:12ab:0::/:
signed:x:-1:0::/:
nul\0name:x:0:0::/:
wrapped:x:4294967296:4294967296::/:
below:x:2147483648:0::/:
"""
ALLOWED = {"twice": "1001 1001", "many": "1002 1002", "1004": "1004 0"}
REFUSED = ["wrapped", "signed", "below", "short", "-1"]
WRAPPING = {"executor/users.py": {"    if not 0 <= number <= MAX_ID:": "    number %= 1 << 32\n    if number < 0:"}}


def with_users(builder: Builder, names: list[str]) -> Path:
    """A context whose stages, one for each name, say who they run as."""
    base = 'FROM scratch AS base\nCOPY busybox /bin/busybox\nCOPY passwd /etc/passwd\nSHELL ["/bin/busybox", "sh", "-c"]\n'
    stages = [
        f'FROM base AS s{n}\nUSER {name}\nRUN echo "user {name}: $(/bin/busybox id -u) $(/bin/busybox id -g)"\n'
        for n, name in enumerate(names)
    ]
    last = "FROM base\n" + "".join(f"COPY --from=s{n} /etc/passwd /p{n}\n" for n in range(len(names)))
    return builder.context({"busybox": BUSYBOX.read_bytes(), "passwd": USERS, "Dockerfile": base + "".join(stages) + last})


@pytest.mark.promise(6, "no entry of an image's /etc/passwd makes a step another user than it names")
@pytest.mark.parametrize("profile", ["plain", "runc", "gvisor"])
def test_users_of_an_image_are_whom_the_file_names_or_nobody(builder: Builder, profile: str) -> None:
    runtime_or_skip(RUNTIMES[profile])
    log = builder.run("--no-cache", "--profile", profile, with_users(builder, list(ALLOWED))).log
    for name, ids in ALLOWED.items():
        assert f"user {name}: {ids}" in log
    for name in REFUSED if profile == "plain" else REFUSED[:1]:
        done = builder("run", "--profile", profile, "--progress", "plain", with_users(builder, [name]))
        assert done.status != 0
        assert re.search(f"user {name}: [0-9]", done.log) is None, "the step ran"
        assert "Traceback" not in done.log


@pytest.mark.without_defence(6, "no entry of an image's /etc/passwd makes a step another user than it names")
def test_an_id_that_is_cut_to_32_bits_is_root(builder: Builder) -> None:
    builder.environment["PYTHONPATH"] = str(make_mutant(builder.folder, WRAPPING))
    done = builder("run", "--no-cache", "--progress", "plain", with_users(builder, ["wrapped"]))
    assert "user wrapped: 0 0" in done.log, done.log
