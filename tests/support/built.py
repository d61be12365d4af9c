"""An image in an OCI layout, read by the standard library alone: its config, its layers, and the tree that they come to.

Also writes layouts with layers of a test's own, above those of another layout.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

OCI = "application/vnd.oci.image"
KINDS = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.DIRTYPE: "directory",
    tarfile.SYMTYPE: "link",
    tarfile.FIFOTYPE: "fifo",
    tarfile.CHRTYPE: "char",
    tarfile.BLKTYPE: "block",
}


class Node(NamedTuple):
    """A file of the merged tree. `link` is a symbolic link's target; files with one `inode` are hard links of each other."""

    kind: str
    mode: int
    uid: int
    gid: int
    content: bytes = b""
    link: str = ""
    device: tuple[int, int] = (0, 0)
    mtime: float = 0.0
    inode: int = 0
    xattrs: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        return self.content.decode()


class Built(NamedTuple):
    """`layers` hold (member, content) in the order of the archive; names have no `./` and no slash at an end."""

    digest: str
    manifest: dict[str, Any]
    config: dict[str, Any]
    layers: tuple[tuple[tuple[tarfile.TarInfo, bytes], ...], ...]

    @property
    def settings(self) -> dict[str, Any]:
        """What a container of the image runs with."""
        found: dict[str, Any] = self.config.get("config") or {}
        return found

    @property
    def environment(self) -> dict[str, str]:
        return dict(pair.split("=", 1) for pair in self.settings.get("Env") or ())

    def names(self, layer: int) -> list[str]:
        return [member.name for member, _ in self.layers[layer]]

    def tree(self) -> dict[str, Node]:
        """The files of all layers by their path, without the root."""
        merged: dict[str, Node] = {}
        numbers = iter(range(1, 1 << 30))
        for layer in self.layers:
            _remove_hidden(merged, [member.name for member, _ in layer])
            for member, content in layer:
                name = member.name.rpartition("/")[2]
                if name.startswith(".wh.") or not member.name:
                    continue
                if member.islnk():
                    merged[member.name] = merged[_clean(member.linkname)]
                    continue
                if not member.isdir() or (member.name in merged and merged[member.name].kind != "directory"):
                    _remove(merged, member.name)
                merged[member.name] = _node(member, content, next(numbers))
        return merged


def read_image(layout: Path) -> Built:
    """The one image of a layout, or the first of its index."""
    [described, *_] = json.loads((layout / "index.json").read_text())["manifests"]
    return read_manifest(layout, described["digest"])


def read_manifest(layout: Path, digest: str) -> Built:
    manifest = json.loads(blob(layout, digest))
    layers = tuple(read_layer(blob(layout, layer["digest"])) for layer in manifest["layers"])
    return Built(digest, manifest, json.loads(blob(layout, manifest["config"]["digest"])), layers)


def blob(layout: Path, digest: str) -> bytes:
    return (layout / "blobs" / "sha256" / digest.removeprefix("sha256:")).read_bytes()


def read_layer(packed: bytes) -> tuple[tuple[tarfile.TarInfo, bytes], ...]:
    members = []
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for member in archive:
            member.name = _clean(member.name)
            stream = archive.extractfile(member) if member.isreg() else None
            members.append((member, stream.read() if stream else b""))
    return tuple(members)


def _clean(name: str) -> str:
    return (
        name.removeprefix("./").strip("/").removeprefix(".") if name.strip("./") == "" else name.removeprefix("./").strip("/")
    )


def _node(member: tarfile.TarInfo, content: bytes, inode: int) -> Node:
    xattrs = sorted(
        (key.removeprefix("SCHILY.xattr."), value)
        for key, value in member.pax_headers.items()
        if key.startswith("SCHILY.xattr.")
    )
    return Node(
        KINDS[member.type],
        member.mode & 0o7777,
        member.uid,
        member.gid,
        content,
        member.linkname if member.issym() else "",
        (member.devmajor, member.devminor) if member.type in (tarfile.CHRTYPE, tarfile.BLKTYPE) else (0, 0),
        member.mtime,
        inode,
        tuple(xattrs),
    )


def _remove_hidden(merged: dict[str, Node], names: Iterable[str]) -> None:
    """Apply a layer's whiteouts to what lies below it (image-spec layer.md, Whiteouts)."""
    for name in names:
        folder, _, last = name.rpartition("/")
        if last == ".wh..wh..opq":
            for path in [path for path in merged if path.startswith(f"{folder}/" if folder else "")]:
                del merged[path]
        elif last.startswith(".wh."):
            _remove(merged, f"{folder}/{last[4:]}".lstrip("/"))


def _remove(merged: dict[str, Node], name: str) -> None:
    for path in [path for path in merged if path == name or path.startswith(f"{name}/")]:
        del merged[path]


def member(
    name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, *, link: str = "", mode: int = 0o644, owner: int = 0
) -> tuple[tarfile.TarInfo, bytes]:
    """An entry for `write_layout`; a device is 1:7."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.size = kind, link, mode, len(content)
    info.uid = info.gid = owner
    if kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        info.devmajor, info.devminor = 1, 7
    return info, content


def write_layout(folder: Path, layers: Sequence[Sequence[tuple[tarfile.TarInfo, bytes]]], below: Path, **config: Any) -> Path:
    """A layout `latest` with `layers` above those of the layout `below`; `config` changes its settings (Env=[...])."""
    shutil.copytree(below, folder)
    [described] = json.loads((below / "index.json").read_text())["manifests"]
    manifest = json.loads(blob(below, described["digest"]))
    document = json.loads(blob(below, manifest["config"]["digest"]))
    document["config"].update(config)
    for layer in layers:
        plain = io.BytesIO()
        with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for info, content in layer:
                archive.addfile(info, io.BytesIO(content))
        document["rootfs"]["diff_ids"].append("sha256:" + hashlib.sha256(plain.getvalue()).hexdigest())
        document["history"].append({"created_by": "made for a test"})
        manifest["layers"].append(_put(folder, gzip.compress(plain.getvalue(), 1, mtime=0), "layer.v1.tar+gzip"))
    manifest["config"] = _put(folder, json.dumps(document).encode(), "config.v1+json")
    described = _put(folder, json.dumps(manifest).encode(), "manifest.v1+json")
    described["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [described]}))
    return folder


def _put(folder: Path, data: bytes, kind: str) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    (folder / "blobs" / "sha256" / digest).write_bytes(data)
    return {"mediaType": f"{OCI}.{kind}", "digest": f"sha256:{digest}", "size": len(data)}
