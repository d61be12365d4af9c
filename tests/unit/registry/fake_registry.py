"""A registry in memory behind the Transport protocol, that can be told to fail: what pull and push are tested against."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from sandboxbuild.oci.descriptor import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Descriptor
from sandboxbuild.registry import Body
from sandboxbuild.registry.failures import TransientError
from sandboxbuild.registry.repository import Repository
from sandboxbuild.registry.retry import Waiting


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


class FakeResponse:
    """Gives `content` in pieces, and drops the connection after `drop_after` bytes."""

    def __init__(self, status: int, headers: Mapping[str, str], content: bytes = b"", drop_after: int | None = None) -> None:
        self.status = status
        self.headers = headers
        self.closed = False
        self._content = content
        self._at = 0
        self._drop_after = drop_after

    def read(self, count: int, /) -> bytes:
        end = min(self._at + min(count, 1000), len(self._content))
        if self._drop_after is not None and end > self._drop_after:
            if self._at >= self._drop_after:
                raise TransientError("the connection was lost")
            end = self._drop_after
        chunk = self._content[self._at : end]
        self._at = end
        return chunk

    def close(self) -> None:
        self.closed = True


class Asked(NamedTuple):
    method: str
    path: str
    headers: Mapping[str, str]


Fault = Callable[[Asked, "Body | None"], "FakeResponse | None"]


class FakeRegistry:
    """Blobs and manifests by repository. A fault is asked before each request, and answers in the registry's place."""

    def __init__(self) -> None:
        self.blobs: dict[tuple[str, str], bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.uploads: dict[str, bytearray] = {}
        self.asked: list[Asked] = []
        self.fault: Fault = lambda _asked, _body: None

    def request(
        self, method: str, host: str, path: str, headers: Mapping[str, str], body: Body | None, *, timeout_s: float = 60.0
    ) -> FakeResponse:
        asked = Asked(method, path, headers)
        self.asked.append(asked)
        failed = self.fault(asked, body)
        if failed is not None:
            return failed
        bare, _, query = path.partition("?")
        fields = dict(pair.split("=", 1) for pair in query.split("&") if pair)
        match = re.fullmatch(r"/v2/(.+)/(manifests|blobs/uploads|blobs)/(.*)", bare)
        assert match, path
        name, kind, last = match.groups()
        if kind == "manifests":
            return self._manifest(method, name, last, headers, body)
        if kind == "blobs":
            return self._blob(method, name, last, headers)
        return self._upload(method, name, last, fields, body)

    def _manifest(self, method: str, name: str, ref: str, headers: Mapping[str, str], body: Body | None) -> FakeResponse:
        if method == "PUT":
            content = read_all(body)
            self.manifests[name, ref] = self.manifests[name, digest_of(content)] = (headers["Content-Type"], content)
            return FakeResponse(201, {})
        if (name, ref) not in self.manifests:
            return FakeResponse(404, {}, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}')
        media_type, content = self.manifests[name, ref]
        return FakeResponse(200, {"content-type": media_type}, content)

    def _blob(self, method: str, name: str, digest: str, headers: Mapping[str, str]) -> FakeResponse:
        if (name, digest) not in self.blobs:
            return FakeResponse(404, {}, b"")
        content = self.blobs[name, digest]
        if method == "HEAD":
            return FakeResponse(200, {"content-length": str(len(content))})
        if "Range" in headers:
            offset = int(headers["Range"][6:-1])
            return FakeResponse(206, {"content-range": f"bytes {offset}-{len(content) - 1}/{len(content)}"}, content[offset:])
        return FakeResponse(200, {"content-length": str(len(content))}, content)

    def _upload(self, method: str, name: str, token: str, fields: Mapping[str, str], body: Body | None) -> FakeResponse:
        if method == "POST":
            if fields.get("from") and (fields["from"], fields["mount"]) in self.blobs:
                self.blobs[name, fields["mount"]] = self.blobs[fields["from"], fields["mount"]]
                return FakeResponse(201, {})
            token = f"u{len(self.uploads)}"
            self.uploads[token] = bytearray()
            return FakeResponse(202, {"location": f"/v2/{name}/blobs/uploads/{token}"})
        if token not in self.uploads:
            return FakeResponse(404, {})
        upload = self.uploads[token]
        location = {"location": f"/v2/{name}/blobs/uploads/{token}", "range": f"0-{max(0, len(upload) - 1)}"}
        if method == "GET":
            return FakeResponse(204, location)
        upload += read_all(body)
        if method == "PATCH":
            return FakeResponse(202, location)
        if digest_of(bytes(upload)) != fields["digest"]:
            return FakeResponse(400, {}, b'{"errors":[{"code":"DIGEST_INVALID"}]}')
        self.blobs[name, fields["digest"]] = bytes(self.uploads.pop(token))
        return FakeResponse(201, {})

    def repository(self, name: str = "team/app", host: str = "registry.example.com") -> Repository:
        """A Repository here that never really waits."""
        return Repository(self, host, name, waiting=Waiting(sleep=lambda _s: None, fraction=lambda: 0.5))

    def add_image(self, layers: list[bytes], name: str = "team/app", tag: str = "1") -> bytes:
        """Store an image; gives its manifest."""
        config = json.dumps({"os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]}})
        described = [blob_descriptor(layer, OCI_LAYER) for layer in layers]
        for content in (config.encode(), *layers):
            self.blobs[name, digest_of(content)] = content
        manifest = manifest_of(blob_descriptor(config.encode(), OCI_CONFIG), described)
        self.manifests[name, tag] = self.manifests[name, digest_of(manifest)] = (OCI_MANIFEST, manifest)
        return manifest

    def add_index(self, entries: list[tuple[str, bytes, str]], name: str = "team/app", tag: str = "1") -> bytes:
        """Store an index of (media type, document, "os/architecture" or "")."""
        manifests = []
        for media_type, content, platform in entries:
            entry: dict[str, object] = {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}
            if platform:
                entry["platform"] = dict(zip(("os", "architecture"), platform.split("/"), strict=True))
            manifests.append(entry)
        index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}).encode()
        self.manifests[name, tag] = self.manifests[name, digest_of(index)] = (OCI_INDEX, index)
        return index


def read_all(body: Body | None) -> bytes:
    content = b""
    while body is not None and (chunk := body.read(777)):
        content += chunk
    return content


def blob_descriptor(content: bytes, media_type: str = OCI_LAYER) -> Descriptor:
    return Descriptor(media_type, digest_of(content), len(content))


def manifest_of(config: Descriptor, layers: list[Descriptor]) -> bytes:
    def plain(descriptor: Descriptor) -> dict[str, object]:
        return {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size_bytes}

    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": plain(config), "layers": list(map(plain, layers))}
    return json.dumps(document).encode()
