"""A corpus built by Debian's buildah and by sandboxbuild: the same files, modes, owners, links and config.

Where the two differ by intent, the difference is in KNOWN with its reason; everything else is a failure.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from tests.support.builder import Builder, run_tool
from tests.support.built import Built, Node, member, read_image
from tests.support.images import busybox_layout

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]


class Case(NamedTuple):
    """A Dockerfile FROM the base; `flags` mean the same to both builders."""

    text: str
    flags: tuple[str, ...] = ()


CORPUS: Final = {
    "env-and-expansion": Case('ENV A=1 B="two words" C=$A\nENV D=${A:-x}${Z:-z}${A:+y}\nENV E=\\$A\nENV OLD value here\n'),
    "env-of-a-step": Case('ENV A=1 PATH=/opt/bin:$PATH\nRUN echo "$A $PATH" > /seen\n'),
    "arg-scopes": Case("ARG A=1\nARG B=${A}2\nRUN echo $A$B > /seen\nENV C=$B\nLABEL l=$A\n", ("--build-arg", "A=9")),
    "arg-before-from": Case("ARG TAG=1\nFROM BASE:$TAG\nARG TAG\nRUN echo $TAG > /seen\n"),
    "labels": Case('LABEL a=1 b="two words" "quoted key"=3\nLABEL c=\\\njoined d=1 \\\n  e=2\n'),
    "copy-file": Case("COPY a.txt /one/two/three\nCOPY a.txt /folder/\nCOPY a.txt b.txt /many/\n"),
    "copy-folder": Case("COPY dir /copied\nCOPY dir /copied-slash/\nCOPY dir/sub/ /sub\n"),
    "copy-context": Case("COPY . /all/\n"),
    "copy-wildcards": Case("COPY *.txt /texts/\nCOPY d?r/s* /subs/\nCOPY dir/[a-f]* /letters/\n"),
    "copy-owners": Case(
        "COPY --chown=1000:4242 a.txt /n\nCOPY --chown=user:extra dir /u\nCOPY --chown=user a.txt /alone\n"
        "COPY --chown=7 a.txt /seven\n"
    ),
    "copy-modes": Case("COPY --chmod=600 a.txt /private\nCOPY tool.sh /tool\nRUN /tool > /out\n"),
    "copy-links": Case("COPY links /links\n"),
    "copy-into-link": Case("RUN mkdir /real; ln -s /real /door\nCOPY a.txt /door/\nCOPY dir /door/dir\n"),
    "copy-over": Case("RUN mkdir -m 700 /d; echo old > /d/a.txt; chmod 600 /d/a.txt\nCOPY a.txt /d/\nCOPY dir /d\n"),
    "copy-relative": Case("WORKDIR /w\nCOPY a.txt .\nCOPY a.txt rel/\nWORKDIR deeper\nCOPY b.txt ./\n"),
    "add-archive": Case("ADD packed.tar.gz /unpacked/\nADD a.txt /plain\nCOPY packed.tar.gz /kept/\n"),
    "workdir": Case("WORKDIR /a/b/c\nWORKDIR ../d\nRUN pwd > seen\nENV X=y\nWORKDIR $X\n"),
    "user": Case("USER user\nRUN id > /tmp/id; touch /tmp/mine\nUSER 1000:4242\nRUN id >> /tmp/id2\nUSER root\n"),
    "user-and-workdir": Case("USER 1000\nWORKDIR /home/new\n"),
    "shell-and-forms": Case(
        'SHELL ["/bin/sh", "-e", "-c"]\nRUN false || echo kept > /seen\nRUN ["/bin/sh", "-c", "echo $0 exec > /exec"]\n'
        "CMD echo shell $HOME\n"
    ),
    "entrypoint-drops-cmd": Case('CMD ["a"]\nENTRYPOINT ["/bin/echo", "x"]\n'),
    "cmd-after-entrypoint": Case('ENTRYPOINT /bin/echo x\nCMD ["a", "b"]\n'),
    "metadata": Case(
        "EXPOSE 80 443/tcp 53/udp\nSTOPSIGNAL SIGINT\nVOLUME /data /more\nVOLUME [\"/third\"]\n"
        "HEALTHCHECK --interval=5s --timeout=3s --retries=2 CMD true\n"
    ),
    "onbuild-kept": Case("ONBUILD RUN echo later\nONBUILD COPY . /x\n"),
    "removed-and-replaced": Case(
        "RUN mkdir /d; echo 1 > /d/f; echo 2 > /g; ln -s g /l\nRUN rm -r /d; echo file > /d; rm /l; mkdir /l; chmod 711 /l\n"
    ),
    "modes-of-a-step": Case("RUN umask; mkdir /d; touch /d/f; chmod 4755 /d/f; chmod 1777 /d; ln /d/f /d/hard; mkfifo /pipe\n"),
    "stages": Case(
        "FROM BASE:1 AS one\nRUN mkdir /out; echo one > /out/f; chown 1000:4242 /out/f; chmod 640 /out/f\nENV LOST=1\n"
        "FROM BASE:1 AS two\nCOPY --from=one /out /from-one\nCOPY --from=0 /out/f /from-number\n"
        "FROM two\nRUN ls -l /from-one > /dev/null\nCOPY --from=one --chown=user /out /owned\n"
    ),
    "target": Case(
        "FROM BASE:1 AS one\nRUN echo one > /one\nFROM BASE:1 AS two\nRUN echo two > /two\nFROM BASE:1\nRUN false\n",
        ("--target", "two"),
    ),
    "from-scratch": Case("FROM BASE:1 AS b\nFROM scratch\nCOPY --from=b /bin/busybox /bin/busybox\nCOPY dir /dir\nENV A=1\n"),
    "continuations": Case("RUN echo a \\\n  # a comment\n  b \\\n\n  c > /seen\nENV A=1 \\\n    B=2\n"),
    "escape-directive": Case("# escape=`\nFROM BASE:1\nRUN echo a `\n  b > /seen\nENV P=C:\\x\n"),
    "stages-with-links": Case(
        "FROM BASE:1 AS one\nRUN mkdir -p /t/in; echo x > /t/a; ln /t/a /t/in/b; ln -s ../a /t/in/soft; "
        "ln -s /none /t/dangling; mkfifo /t/pipe; chmod 2750 /t/in; chown -R 5:6 /t; chown -h 7:8 /t/dangling\n"
        "FROM BASE:1\nCOPY --from=one /t /whole\nCOPY --from=one /t/in/soft /single/\n"
    ),
    "copy-a-link-to-a-folder": Case("RUN mkdir /f; echo x > /f/x\nCOPY dir/link-to-sub /one\nCOPY dir/link-to-sub/ /two/\n"),
    "copy-into-relative-link": Case("RUN mkdir -p /a/b /c; ln -s ../../c /a/b/up\nCOPY a.txt /a/b/up/\nCOPY dir /a/b/up/dir\n"),
    "parents-are-made": Case("COPY a.txt /p/q/r/\nCOPY --chown=9:9 a.txt /s/t/u\nADD --chown=9:9 packed.tar.gz /v/w/\n"),
    "folder-becomes-link": Case("RUN mkdir -p /x/y; echo 1 > /x/y/f\nRUN rm -r /x/y; ln -s /tmp /x/y; echo 2 > /tmp/g\n"),
    "touched-and-unchanged": Case("RUN echo 1 > /f; mkdir /e\nRUN touch -d @0 /f\nRUN chmod 600 /f; chown 3:4 /e\nRUN true\n"),
    "moved": Case("RUN mkdir /m; echo 1 > /m/a; echo 2 > /m/b\nRUN mv /m /n\nRUN mkdir /m; mv /n/a /m/a\n"),
    "hard-links-across-layers": Case("RUN echo 1 > /h1\nRUN ln /h1 /h2\nRUN echo 2 >> /h2\nRUN rm /h1\n"),
    "odd-names": Case("COPY odd /odd\nRUN ls /odd | wc -l > /count\n"),
    "json-copy": Case('COPY ["odd/with space", "a.txt", "/to/"]\nADD ["b.txt", "/named b"]\n'),
    "add-many-archives": Case("ADD packed.tar.gz a.txt /both/\nADD packed.tar /plain/\n"),
    "sticky-and-setgid": Case("RUN mkdir -m 2775 /g; chown 0:4242 /g; mkdir /g/sub; touch /g/f\nCOPY a.txt /g/copied\n"),
    "numeric-user-unknown": Case("USER 4567:89\nRUN id > /tmp/id; echo $HOME >> /tmp/id\nWORKDIR /w\nCOPY a.txt mine\n"),
    "env-in-most-places": Case(
        "ENV D=/dir U=user L=la P=81\nWORKDIR $D\nCOPY a.txt ${D}2/\nUSER $U\nLABEL $L=$P\nEXPOSE $P\nVOLUME $D/v\n"
        'STOPSIGNAL SIG${X:-KILL}\nCMD ["$D"]\n'
    ),
    "command-line-labels": Case("LABEL a=1\n", ("--label", "x=y", "--label", "z=1")),
}  # fmt: skip

ODD_NAMES: Final = (
    *("with space", "quote'\"", "star*", "[set]", "-dash", ".hidden", "$HOME", "new\nline"),
    *("\u00fcml\u00e4ut", "n" * 200),
)

# Paths that only one of the two makes or touches, and why that is no fault of either.
KNOWN_PATHS: Final = {
    "etc/hostname": "buildah leaves the mount point of its own file in the layer",
    "etc/hosts": "buildah leaves the mount point of its own file in the layer",
    "etc/resolv.conf": "buildah leaves the mount point of its own file in the layer",
    "run": "buildah leaves the folder of its mount point",
    "run/.containerenv": "buildah leaves the mount point of its own file in the layer",
    "dev": "buildah's chroot isolation leaves mount points",
    "proc": "buildah's chroot isolation leaves mount points",
    "sys": "buildah's chroot isolation leaves mount points",
}
# Settings that only one of the two writes, and why.
KNOWN_SETTINGS: Final = {"ArgsEscaped": "BuildKit sets it for shell forms, buildah never does; it says nothing on Linux"}
# case -> how a difference begins that is seen there, and its reason.
KNOWN: Final = {
    "escape-directive": {"Env: ['P=C:": "with escape=` BuildKit leaves a backslash in ENV alone, buildah takes it away"},
    "shell-and-forms": {"Cmd: ['/bin/sh', '-e'": "SHELL holds for CMD in BuildKit, buildah takes /bin/sh -c"},
    "parents-are-made": {"v/w/inner": "--chown of ADD holds for what an archive holds in BuildKit, buildah leaves its owners"},
    "from-scratch": {"WorkingDir: '/'": "BuildKit writes the working directory of scratch, buildah leaves it out"},
}


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    """HOST/busybox of a registry that both builders reach."""
    from tests.integration.registry_fixtures import running_registry

    folder = Path("/var/tmp") / f"like-buildah-{os.getpid()}"
    folder.mkdir()
    try:
        with running_registry(folder) as running:
            name = f"{running.host}/busybox"
            run_tool("skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{busybox_layout()}:latest", f"docker://{name}:1")
            yield name
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of several kinds, owners and modes."""
    top = tmp_path_factory.mktemp("context")
    for name, mode in {
        "a.txt": 0o644, "b.txt": 0o600, "tool.sh": 0o755, "dir/f": 0o644, "dir/exec": 0o755, "dir/sub/deep/g": 0o640,
        "links/target": 0o644, "ignored/f": 0o644, "dir/x.log": 0o644,
    }.items():  # fmt: skip
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\necho ran\n" if name == "tool.sh" else f"this is {name}\n")
        path.chmod(mode)
    os.chown(top / "a.txt", 1234, 1234)
    (top / "dir" / "sub").chmod(0o750)
    (top / "links" / "relative").symlink_to("target")
    (top / "links" / "absolute").symlink_to("/etc/passwd")
    (top / "links" / "dangling").symlink_to("nowhere")
    (top / "dir" / "link-to-sub").symlink_to("sub")
    (top / "odd").mkdir()
    for name in ODD_NAMES:
        (top / "odd" / name).write_text(name)
    (top / ".dockerignore").write_text("ignored\n**/*.log\nDockerfile*\n.dockerignore\n")
    with tarfile.open(top / "packed.tar", "w") as archive:
        for info, content in (
            member("inner/file", b"packed", mode=0o640, owner=33),
            member("inner/link", kind=tarfile.SYMTYPE, link="file", mode=0o777),
            member("inner/hard", kind=tarfile.LNKTYPE, link="inner/file", mode=0o640, owner=33),
        ):
            archive.addfile(info, io.BytesIO(content))
    (top / "packed.tar.gz").write_bytes(gzip.compress((top / "packed.tar").read_bytes()))
    return top


@pytest.fixture(scope="module")
def by_buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path, Path, tuple[str, ...]], Built]]:
    if shutil.which("buildah") is None:
        pytest.skip("buildah is not installed: see tests/debian-packages.txt")
    work = tmp_path_factory.mktemp("buildah")
    store = ("buildah", "--storage-driver", "vfs", "--root", work / "root", "--runroot", work / "run")

    def build(dockerfile: Path, context: Path, flags: tuple[str, ...]) -> Built:
        options = ("--isolation", "chroot", "--layers=false", "--tls-verify=false", "--format", "docker")
        run_tool(*store, "bud", *options, *flags, "-q", "-t", "built:1", "-f", dockerfile, context)
        shutil.rmtree(work / "layout", ignore_errors=True)
        run_tool(*store, "push", "-q", "--format", "oci", "built:1", f"oci:{work / 'layout'}:latest")
        run_tool(*store, "push", "-q", "--format", "v2s2", "built:1", f"dir:{work / 'docker'}")
        built = read_image(work / "layout")
        settings = built.config["config"] | docker_settings(work / "docker")
        run_tool(*store, "rmi", "built:1")
        return built._replace(config=built.config | {"config": settings})

    yield build
    run_tool(*store, "rm", "--all")
    shutil.rmtree(work)


def docker_settings(folder: Path) -> dict[str, Any]:
    """The settings that only Docker's form of a config has."""
    manifest = json.loads((folder / "manifest.json").read_text())
    config = json.loads((folder / manifest["config"]["digest"].removeprefix("sha256:")).read_text())
    shutil.rmtree(folder)
    found: dict[str, Any] = {
        key: config["config"][key] for key in ("Healthcheck", "OnBuild", "Shell") if config["config"].get(key)
    }
    return found


@pytest.mark.parametrize("name", CORPUS)
def test_files_and_config_are_those_of_buildah(
    name: str, builder: Builder, context: Path, base: str, by_buildah: Callable[[Path, Path, tuple[str, ...]], Built]
) -> None:
    case = CORPUS[name]
    dockerfile = builder.folder / "Dockerfile"
    text = case.text if "FROM BASE" in case.text else "FROM BASE:1\n" + case.text
    dockerfile.write_text(text.replace("BASE", base))
    theirs = by_buildah(dockerfile, context, case.flags)
    layout = builder.folder / "layout"
    builder.run("-f", dockerfile, "-o", f"type=oci,tar=false,dest={layout}", *case.flags, context)
    ours = read_image(layout)
    known = KNOWN.get(name, {})
    found = [*config_differences(ours, theirs), *file_differences(ours.tree(), theirs.tree())]
    assert [line for line in found if not any(line.startswith(start) for start in known)] == []
    assert [start for start in known if not any(line.startswith(start) for line in found)] == [], "known and not seen"


def config_differences(ours: Built, theirs: Built) -> list[str]:
    mine, other = comparable(ours.settings), comparable(theirs.settings)
    keys = sorted((mine.keys() | other.keys()) - KNOWN_SETTINGS.keys())
    found = [f"{key}: {mine.get(key)!r}, buildah {other.get(key)!r}" for key in keys if mine.get(key) != other.get(key)]
    for key in ("architecture", "os", "author"):
        if ours.config.get(key) != theirs.config.get(key):
            found.append(f"{key}: {ours.config.get(key)!r}, buildah {theirs.config.get(key)!r}")
    return found


def comparable(settings: dict[str, Any]) -> dict[str, Any]:
    """Without what is empty, without what buildah says of itself; lists that are sets are sorted."""
    labels = {key: value for key, value in (settings.get("Labels") or {}).items() if key != "io.buildah.version"}
    found = {key: value for key, value in (settings | {"Labels": labels}).items() if value}
    return found | ({"Env": sorted(found["Env"])} if "Env" in found else {})


def file_differences(mine: dict[str, Node], other: dict[str, Node]) -> list[str]:
    found = []
    for path in sorted((mine.keys() | other.keys()) - KNOWN_PATHS.keys()):
        if path not in mine or path not in other:
            found.append(f"{path}: only {'buildah' if path in other else 'sandboxbuild'} has it")
            continue
        a, b = (node._replace(mtime=0, inode=0) for node in (mine[path], other[path]))
        if a != b:
            parts = [f"{key} {x!r}, buildah {y!r}" for key, x, y in zip(a._fields, a, b, strict=True) if x != y]
            found.append(f"{path}: {'; '.join(parts)}")
    return found + [f"links: {pair}" for pair in sorted(hard_links(mine) ^ hard_links(other))]


def hard_links(tree: dict[str, Node]) -> set[tuple[str, ...]]:
    """The groups of names that are one file."""
    groups: dict[int, list[str]] = {}
    for path, node in tree.items():
        groups.setdefault(node.inode, []).append(path)
    return {tuple(sorted(names)) for names in groups.values() if len(names) > 1}
