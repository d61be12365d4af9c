"""Base images with a compiler or interpreter of Debian's and no more than it needs: unpacked packages, without their scripts.

A package manager's own installation is what tests/integration/test_real_builds.py shows; here it would only cost time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from tests.support.images import debian_mirror, furnish, made_once, write_layout

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SYSTEM = ("dash", "coreutils", "tar", "gzip", "sed", "grep", "findutils")


class Toolchain(NamedTuple):
    """`packages` with all that they depend on, but for `without` (patterns of packages) and `removed` (globs of paths).

    `stripped` are globs of objects that lose what is for debuggers.
    """

    name: str
    packages: tuple[str, ...]
    without: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    stripped: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()


UNREAD = tuple(f"usr/share/{name}" for name in ("doc", "man", "locale", "lintian", "info", "i18n", "perl5", "bug", "gcc"))

# npm's closure in Debian has build tools that npm never loads; two thirds of its files are theirs.
NODE = Toolchain(
    "node",
    ("nodejs", "npm"),
    without=(
        *("*python3*", "gyp", "webpack", "eslint", "terser", "handlebars", "openssl", "debconf", "ca-certificates"),
        *("lib*-dev", "libjs-*", "node-core-js*", "node-babel*", "node-lodash*", "node-es-abstract", "node-caniuse-lite"),
        *("node-regenerate*", "node-webassemblyjs", "node-istanbul", "node-types-*"),
    ),
    removed=("usr/share/nodejs/@types", "usr/share/nodejs/npm/docs"),
)
RUST = Toolchain(
    "rust",
    ("cargo-web",),
    without=("lib*san?", "libtsan*", "libubsan*"),
    removed=(
        *("usr/bin/*lto-dump*", "usr/bin/rustdoc", "usr/lib/gcc/*/*/lto1", "usr/lib/gcc/*/*/cc1", "usr/lib/gcc/*/*/lib*san.a"),
        *(f"usr/lib/rustlib/*/lib/lib{name}-*.rlib" for name in ("test", "getopts")),
    ),
    stripped=("usr/lib/rustlib/*/lib/*.rlib",),
    links=(("usr/bin/cc", "gcc"),),
)
GO = Toolchain(
    "go",
    ("golang-go",),
    removed=(
        *("usr/lib/go-*/pkg/linux_*/cmd", "usr/share/go-*/src/cmd"),
        *(
            f"usr/lib/go-*/pkg/tool/*/{name}"
            for name in ("trace", "pprof", "cover", "vet", "doc", "objdump", "addr2line", "dist")
        ),
        *(f"usr/share/go-*/{name}" for name in ("test", "api", "misc")),
        *("usr/share/go-*/src/**/testdata", "usr/share/go-*/src/**/*_test.go"),
    ),
)


def toolchain_layout(toolchain: Toolchain) -> Path:
    """An OCI layout of `toolchain`, from the cache if it is there."""
    key = hashlib.sha256(repr((SYSTEM, UNREAD, toolchain)).encode()).hexdigest()[:12]
    return made_once(f"toolchain-{toolchain.name}-{key}", lambda target: _make(toolchain, target))


def _make(toolchain: Toolchain, target: Path) -> None:
    rootfs = target.with_suffix(".rootfs")
    shutil.rmtree(rootfs, ignore_errors=True)
    rootfs.mkdir()
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        for package in _downloaded(Path(folder), toolchain):
            subprocess.run(["dpkg-deb", "--extract", str(package), str(rootfs)], check=True)
    for pattern in (*UNREAD, *toolchain.removed):
        for path in list(rootfs.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for pattern in toolchain.stripped:
        subprocess.run(["strip", "--strip-debug", *map(str, rootfs.glob(pattern))], check=True)
    furnish(rootfs)
    for place, to in (("bin/sh", "dash"), *toolchain.links):
        (rootfs / place).unlink(missing_ok=True)
        (rootfs / place).symlink_to(to)
    write_layout(rootfs, target, ["sh"], compress=False)


def _downloaded(folder: Path, toolchain: Toolchain) -> list[Path]:
    """The packages, downloaded by an apt that knows nothing but the release, whatever this machine has installed."""
    for name in ("lists/partial", "archives/partial", "packages", "none"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    (folder / "sources.list").write_text(f"deb [signed-by={KEYRING}] {debian_mirror()} bookworm main\n")
    settings = {
        "Dir::State::lists": "lists",
        "Dir::State::status": "status",
        "Dir::Cache": ".",
        "Dir::Etc::sourcelist": "sources.list",
        "Dir::Etc::sourceparts": "none",
        "Dir::Etc::preferencesparts": "none",
        "Debug::NoLocking": "true",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    options = [f"-o{key}={folder / value if key.startswith('Dir') else value}" for key, value in settings.items()]
    _apt("update", options, folder)
    plan = _apt("install", [*options, "--no-install-recommends", "--simulate", *SYSTEM, *toolchain.packages], folder)
    planned = [line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")]
    wanted = [name for name in planned if not any(fnmatch(name, pattern) for pattern in toolchain.without)]
    _apt("download", [*options, *wanted], folder / "packages")
    return sorted((folder / "packages").glob("*.deb"))


def _apt(command: str, arguments: Sequence[str], folder: Path) -> str:
    """Run in `folder`; gives what it prints."""
    argv = ["apt-get", "-q", command, *arguments]
    environ = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, cwd=folder, env=environ).stdout
