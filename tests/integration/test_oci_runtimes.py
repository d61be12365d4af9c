"""The same build in each runtime: one digest, nothing left behind, and a store that any of them can go on with."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import tarfile
import time
from pathlib import Path

import pytest

from sandboxbuild.runtimes.keeper import remove_cgroups
from tests.support.builder import Builder, wait_until
from tests.support.profiles import runtime_or_skip
from tests.support.sandboxes import find_process

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

BUSYBOX = Path("/usr/bin/busybox") if Path("/usr/bin/busybox").exists() else Path("/bin/busybox")
WAYS = {
    "overlay": ("--profile", "plain", "--snapshotter", "overlay"),
    "walk": ("--profile", "plain", "--snapshotter", "walk"),
    "runc": ("--profile", "runc"),
    "gvisor": ("--profile", "gvisor"),
}
NEEDS = {"runc": "runc", "gvisor": "runsc"}
EPOCH = "1700000000"

# Hard links within a step and over steps, a directory that replaces a file and the other way round, deletions at every depth,
# modes and owners, devices and attributes of a layer, names that are no text. Kaniko under gVisor wrote directories as hard
# links, since it took inode numbers without their device for a file's identity.
DOCKERFILE = """FROM scratch AS first
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
ENV PATH=/bin
ADD base.tar /
WORKDIR /work/deep/er
COPY --chown=1000:2000 --chmod=0640 tree/ tree/
RUN mkdir -p a/b/c a/d && echo one > a/b/one && ln a/b/one a/b/two && ln a/b/one a/d/three && ln -s ../b a/d/link
RUN rm a/b/two && mkdir a/b/two && touch a/b/two/inside && rm -r a/d && echo file > a/d
RUN rm -r tree/sub && mkdir tree/sub && echo new > tree/sub/new && chmod 4755 tree/run && chown 7:8 a/b
RUN mkfifo /fifo && chmod 1777 /work && rm /base/gone && touch /base/kept && ln /base/one /base/again
RUN rm -r /base/dir && echo "$(id -u):$(id -g)" > /ids && cp /bin/busybox /copy && rm /copy
USER 1000:1000
RUN id > /work/who

FROM first AS second
USER 0
COPY --from=first /work /taken
RUN --mount=type=tmpfs,target=/t --mount=type=cache,target=/c \\
    --mount=type=bind,from=first,source=/work,target=/m echo x > /t/x; echo y > /c/y; ls -R /m > /listed
"""


def base_tar() -> bytes:
    """A layer of things that a step can't make: attributes, file capabilities, devices, a name that is no UTF-8."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, kind in (("base", tarfile.DIRTYPE), ("base/dir", tarfile.DIRTYPE), ("base/null", tarfile.CHRTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.devmajor, entry.devminor = kind, 0o755, 1, 3
            archive.addfile(entry)
        for name, attributes in (
            ("base/one", {}),
            ("base/gone", {}),
            ("base/kept", {"SCHILY.xattr.user.note": "of the base"}),
            ("base/noted", {"SCHILY.xattr.user.note": "never touched"}),
            ("base/ping", {"SCHILY.xattr.security.capability": "\x01\0\0\x02\0\x20" + "\0" * 14}),
            ("base/dir/f\udcff", {}),
        ):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(name), 0o644, 1_600_000_000
            entry.uid, entry.gid = (0, 0) if name == "base/one" else (12, 34)
            entry.pax_headers = attributes
            archive.addfile(entry, io.BytesIO(name.encode("utf-8", "surrogateescape")))
        linked = tarfile.TarInfo("base/linked")
        linked.type, linked.linkname = tarfile.LNKTYPE, "base/noted"
        archive.addfile(linked)
    return sink.getvalue()


@pytest.fixture
def context(builder: Builder) -> Path:
    made = builder.context(
        {
            "busybox": BUSYBOX.read_bytes(),
            "base.tar": base_tar(),
            "tree/run": "#!/bin/sh\n",
            "tree/sub/old": "old",
            "tree/sub/deeper/old": "older",
            "Dockerfile": DOCKERFILE,
        }
    )
    (made / "busybox").chmod(0o755)
    for path in sorted(made.rglob("*")):
        os.utime(path, (1_650_000_000, 1_650_000_000))
    return made


def listing(image: Path) -> dict[str, list[str]]:
    """Each layer's entries, for the message when digests differ."""
    with tarfile.open(image) as archive:

        def read(digest: str) -> bytes:
            member = archive.extractfile(f"blobs/{digest.replace(':', '/')}")
            assert member is not None
            return member.read()

        index = archive.extractfile("index.json")
        assert index is not None
        manifest = json.loads(read(json.load(index)["manifests"][0]["digest"]))
        layers = {}
        for number, layer in enumerate(manifest["layers"]):
            with tarfile.open(fileobj=io.BytesIO(read(layer["digest"]))) as inner:
                layers[f"layer {number}"] = [str(sorted(entry.get_info().items()) + [entry.pax_headers]) for entry in inner]
        return layers


def test_every_way_of_building_gives_the_same_bytes(builder: Builder, context: Path) -> None:
    images = {}
    for way, options in WAYS.items():
        if way in NEEDS:
            runtime_or_skip(NEEDS[way])
        out = builder.folder / f"{way}.tar"
        builder.store = builder.folder / f"store-{way}"
        builder.run(*options, "--no-cache", "--source-date-epoch", EPOCH, "-o", f"type=oci,dest={out}", context)
        builder.check_nothing_is_left()
        images[way] = out
    expected = listing(images["overlay"])
    for way, image in images.items():
        assert listing(image) == expected, way
        assert hashlib.sha256(image.read_bytes()).digest() == hashlib.sha256(images["overlay"].read_bytes()).digest(), way


def test_a_base_is_unpacked_once_for_all_profiles_where_any_filesystem_holds_it(builder: Builder, context: Path) -> None:
    """gVisor's bind mounts hold plain layers alone; those with deletions, devices and attributes are unpacked in each build."""
    runtime_or_skip("runsc")
    layout = builder.folder / "layout"
    base = ("--build-context", f"base=oci-layout://{layout}", "--no-cache", "--source-date-epoch", EPOCH)
    builder.run(*base[2:], "--target", "first", "-o", f"type=oci,dest={layout},tar=false", context)
    child = builder.context({"Dockerfile": "FROM base\nUSER 0\nRUN rm /copy; touch /new; ln /bin/busybox /more\n"}, "child")
    digests = {}
    for profile in ("plain", "gvisor"):
        builder.store = builder.folder / f"child-of-{profile}"
        digests[profile] = builder.metadata("--profile", profile, *base, child)["containerimage.digest"]
    assert digests["plain"] == digests["gvisor"]
    layers = list((builder.store / "layers").iterdir())
    assert layers, "nothing was kept"
    assert all((layer / "plain").exists() for layer in layers)
    unpacked = [layer for layer in (builder.folder / "child-of-plain" / "layers").iterdir() if not (layer / "plain").exists()]
    assert len(unpacked) > 1, "no layer of this base is for plain alone, so nothing was tried"
    busybox = next(layer / "fs" for layer in layers if (layer / "fs/bin/busybox").exists())
    (busybox / "bin" / "left").write_text("by the test, to see that this very folder is below the step")
    child.joinpath("Dockerfile").write_text("FROM base\nUSER 0\nRUN [ -e /bin/left ]\n")
    for profile in ("gvisor", "plain"):
        builder.run("--profile", profile, *base, child)


def test_gvisor_gives_a_linked_file_to_who_links_it(builder: Builder) -> None:
    """A fault of its overlay (runsc of 2024-07), and the one known difference: docs/isolation.md says so."""
    runtime_or_skip("runsc")
    dockerfile = (
        "FROM scratch\nCOPY busybox /bin/busybox\nCOPY --chown=12:34 Dockerfile /owned\n"
        'RUN ["/bin/busybox", "ln", "/owned", "/linked"]\nRUN ["/bin/busybox", "stat", "-c", "owner %u:%g", "/owned"]\n'
    )
    context = builder.context({"busybox": BUSYBOX.read_bytes(), "Dockerfile": dockerfile})
    (context / "busybox").chmod(0o755)
    owners = {
        profile: builder.run("--no-cache", "--profile", profile, context).log.count("owner 12:34")
        for profile in ("plain", "gvisor")
    }
    assert owners == {"plain": 1, "gvisor": 0}


@pytest.mark.parametrize("profile", ["runc", "gvisor"])
def test_each_runtime_goes_on_where_another_one_stopped(builder: Builder, context: Path, profile: str) -> None:
    runtime_or_skip(NEEDS[profile])
    options = ("--source-date-epoch", EPOCH, context)
    builder.run("--profile", "plain", "--target", "first", *options)
    digest = builder.metadata("--profile", profile, *options)["containerimage.digest"]
    again = builder.metadata("--profile", "plain", *options)["containerimage.digest"]
    assert digest == again


@pytest.mark.parametrize("profile", ["runc", "gvisor"])
@pytest.mark.parametrize("moment_s", [0.2, 0.8, 2.5])
def test_a_killed_build_leaves_nothing(builder: Builder, profile: str, moment_s: float) -> None:
    runtime_or_skip(NEEDS[profile])
    dockerfile = 'FROM scratch\nCOPY busybox /busybox\nRUN ["/busybox", "sleep", "7700"]\n'
    context = builder.context({"busybox": BUSYBOX.read_bytes(), "Dockerfile": dockerfile})
    (context / "busybox").chmod(0o755)
    with builder.popen("run", "--profile", profile, "--progress", "plain", context) as process:
        time.sleep(moment_s)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    builder.check_nothing_is_left()
    wait_until(lambda: not empty_cgroups(), what="the end of its cgroups")
    (context / "Dockerfile").write_text("FROM scratch\nCOPY busybox /busybox\n")
    builder.run("--profile", profile, context)


def test_a_killed_keeper_takes_the_sandbox_with_it(builder: Builder) -> None:
    runtime_or_skip("runc")
    seconds = str(7_000_000 + os.getpid())  # nobody else's
    dockerfile = f'FROM scratch\nCOPY busybox /busybox\nRUN ["/busybox", "sleep", "{seconds}"]\n'
    context = builder.context({"busybox": BUSYBOX.read_bytes(), "Dockerfile": dockerfile})
    (context / "busybox").chmod(0o755)
    with builder.popen("run", "--profile", "runc", "--progress", "plain", context) as process:
        try:
            wait_until(lambda: find_process(f"sleep {seconds}") is not None, 60, what="the step")
            os.kill(keeper_of(process.pid), signal.SIGKILL)
            _, log = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode != 0
    assert b"Traceback" not in log
    builder.check_nothing_is_left()
    for name in empty_cgroups():
        remove_cgroups(name)  # nobody was left to do it


def keeper_of(launcher: int) -> int:
    """The launcher's child that runs keeper.py."""
    for thread in Path(f"/proc/{launcher}/task").iterdir():
        for pid in (thread / "children").read_text().split():
            if b"keeper" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return int(pid)
    raise AssertionError("no keeper")


def empty_cgroups() -> set[str]:
    """Our cgroups without a process: those of other tests, which may run now, have some."""
    return {
        f"/{path.name}"
        for path in Path("/sys/fs/cgroup").glob("*/sandboxbuild-oci-*")
        if not (path / "cgroup.procs").read_text()
    }


def configure(builder: Builder, name: str, runtime: str, *, binary: str = "", more: str = "", probe: str = "") -> None:
    """A profile `name` for `runtime` in the user's own folder, and the runtime's file where `binary` is given."""
    folder = builder.folder / "config" / "sandboxbuild"
    for kind in ("profiles", "runtimes"):
        (folder / kind).mkdir(parents=True)
    text = f'[profile]\nruntime = "{runtime}"\ndescription = "of a test"\n[network]\nmode = "none"\n'
    (folder / "profiles" / f"{name}.toml").write_text(text)
    if binary:
        claims = 'enforces = ["network", "ids", "syscalls", "capabilities"]'
        text = f'driver = "ocicli"\nbinary = "{binary}"\ndescription = "of a test"\n{claims}\n{more}{probe}'
        (folder / "runtimes" / f"{runtime}.toml").write_text(text)
    builder.environment["XDG_CONFIG_HOME"] = str(builder.folder / "config")


def test_a_runtime_that_is_not_installed_is_named(builder: Builder) -> None:
    configure(builder, "mine", "absent", binary="no-such-runtime")
    done = builder.fail(6, "--profile", "mine", builder.context({"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"}))
    assert "no-such-runtime is not installed" in done.last_error


def test_a_runtime_that_is_too_old_is_refused(builder: Builder) -> None:
    runtime_or_skip("crun")
    configure(builder, "mine", "later", binary="crun", probe='[probe]\narguments = ["--version"]\nminimum = "999.1"\n')
    done = builder.fail(6, "--profile", "mine", builder.context({"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"}))
    assert "999.1 is the oldest" in done.last_error


def test_a_runtime_that_nobody_knew_needs_nothing_but_its_file(builder: Builder, context: Path) -> None:
    """youki's name, and crun in its place: what is called and how is the file's to say."""
    runtime_or_skip("crun")
    arguments = 'arguments = ["--cgroup-manager=disabled"]\n'
    configure(
        builder, "mine", "youki", binary="crun", more=arguments, probe='[probe]\narguments = ["--version"]\nminimum = "1"\n'
    )
    builder.run("--profile", "mine", context)


def test_crun_needs_nothing_but_its_file(builder: Builder, context: Path) -> None:
    runtime_or_skip("crun")
    configure(builder, "mine", "crun")
    builder.run("--profile", "mine", context)
