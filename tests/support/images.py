"""Real base images for the tests, made from Debian packages and kept in a cache folder; nothing of ours writes them."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol

OCI = "application/vnd.oci.image"


def cache_folder() -> Path:
    """SANDBOXBUILD_TEST_CACHE, or a folder of root's own."""
    folder = Path(os.environ.get("SANDBOXBUILD_TEST_CACHE", Path.home() / ".cache" / "sandboxbuild-tests"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def debian_layout() -> Path:
    """Debian 12, minbase, as an OCI layout."""
    return made_once("debian-12", lambda target: write_layout(_debootstrap(target.with_suffix(".rootfs")), target, ["bash"]))


def busybox_layout() -> Path:
    """Debian's busybox-static and the few files that a system has."""
    return made_once("busybox", lambda target: write_layout(_busybox(target.with_suffix(".rootfs")), target, ["sh"]))


def debian_mirror() -> str:
    """The mirror that this machine's own apt uses."""
    text = "\n".join(
        path.read_text()
        for path in [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
        if path.is_file()
    )
    found = re.search(r"^(?:URIs:|deb(?: \[[^]]*\])?)\s+(\S+/debian/?)(?:\s|$)", text, re.MULTILINE)
    if not found:
        raise RuntimeError("apt on this machine has no Debian mirror")
    return found.group(1)


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """The layout `name` in the cache; made under a lock, so that parallel test processes make one."""
    folder = cache_folder() / name
    with (cache_folder() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "index.json").exists():
            partial = cache_folder() / f"{name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            make(partial)
            partial.rename(folder)
    return folder


def _debootstrap(rootfs: Path) -> Path:
    shutil.rmtree(rootfs, ignore_errors=True)
    argv = ["debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", str(rootfs), debian_mirror()]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    for pattern in ("var/cache/apt/archives/*.deb", "var/lib/apt/lists/*_*", "var/log/*.log"):
        for path in rootfs.glob(pattern):
            path.unlink()
    shutil.rmtree(rootfs / "dev", ignore_errors=True)
    (rootfs / "dev").mkdir()
    return rootfs


def _busybox(rootfs: Path) -> Path:
    shutil.rmtree(rootfs, ignore_errors=True)
    for name in ("bin", "var", "usr/bin"):
        (rootfs / name).mkdir(parents=True)
    furnish(rootfs)
    program = shutil.which("busybox", path="/usr/bin:/bin")
    assert program, "busybox-static is not installed"
    shutil.copy(program, rootfs / "bin/busybox")
    for applet in subprocess.run([program, "--list"], check=True, capture_output=True, text=True).stdout.split():
        if applet != "busybox":
            (rootfs / "bin" / applet).symlink_to("busybox")
    return rootfs


def furnish(rootfs: Path) -> None:
    """What no package of Debian's ships as a file, and programs look for."""
    for name in ("etc", "root", "tmp"):
        (rootfs / name).mkdir(exist_ok=True)
    (rootfs / "tmp").chmod(0o1777)
    (rootfs / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n")
    (rootfs / "etc/group").write_text("root:x:0:\nuser:x:1000:\nextra:x:4242:user\n")


def write_layout(rootfs: Path, target: Path, command: list[str], *, compress: bool = True) -> None:
    """Write `rootfs` as an OCI layout with one layer, by the standard library's tarfile, and remove it."""
    blobs = target / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    layer = target / "layer"
    with layer.open("wb") as raw, _packed(raw) if compress else contextlib.nullcontext(raw) as sink:
        hashing = _Hashing(sink)
        with tarfile.open(fileobj=hashing, mode="w|", format=tarfile.PAX_FORMAT) as tar:
            for path in sorted(rootfs.iterdir()):
                tar.add(path, arcname=path.name)
    shutil.rmtree(rootfs)
    digest, size = _digest_of(layer), layer.stat().st_size
    layer.rename(blobs / digest)
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": [path], "Cmd": command},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashing.digest.hexdigest()}"]},
        "history": [{"created_by": "made for the tests"}],
    }
    media_type = f"{OCI}.layer.v1.tar+gzip" if compress else f"{OCI}.layer.v1.tar"
    layers = [{"mediaType": media_type, "digest": f"sha256:{digest}", "size": size}]
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": _document(blobs, config, f"{OCI}.config.v1+json"),
        "layers": layers,
    }
    described = _document(blobs, manifest, f"{OCI}.manifest.v1+json")
    described["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (target / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (target / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [described]}))


def _packed(raw: BinaryIO) -> gzip.GzipFile:
    return gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1, mtime=0)


def _document(blobs: Path, value: object, media_type: str) -> dict[str, object]:
    data = json.dumps(value).encode()
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def _digest_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Writable(Protocol):
    """Takes all of the bytes that it is given, or raises."""

    def write(self, data: memoryview, /) -> int: ...


class _Hashing(io.RawIOBase):
    """Passes on what is written, and hashes it."""

    def __init__(self, below: Writable) -> None:
        self._below = below
        self.digest = hashlib.sha256()

    def write(self, data: object) -> int:
        view = memoryview(data)  # type: ignore[arg-type]  # any buffer, as io.RawIOBase.write takes
        self.digest.update(view)
        return self._below.write(view)
