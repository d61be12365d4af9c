"""What we export, judged by others: skopeo and umoci read it, and JSON Schema copies of the image-spec's rules hold."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from sandboxbuild.archive.pipeline import write_layer
from sandboxbuild.archive.scan import scan_tree
from sandboxbuild.exporters import Output, export
from sandboxbuild.exporters.registry import push
from sandboxbuild.fstree.changes import Changes, Delete, Upsert
from sandboxbuild.oci.config import Healthcheck, History, ImageConfig
from sandboxbuild.oci.descriptor import Descriptor
from sandboxbuild.oci.image import Image
from sandboxbuild.oci.mutate import append_empty_layer, append_layer, assemble, assemble_index, replace_config
from sandboxbuild.registry import Body
from sandboxbuild.registry.push import Destination
from sandboxbuild.registry.repository import Repository
from sandboxbuild.store import Store
from tests.integration.registry_fixtures import RunningRegistry, plain_registry  # noqa: F401
from tests.support import image_spec_rules as rules

BUSYBOX = "/bin/busybox"
needs = pytest.mark.skipif
pytestmark = [
    needs(shutil.which("skopeo") is None, reason="skopeo is not installed"),
    needs(not os.path.exists(BUSYBOX), reason="busybox-static is not installed"),
]
CREATED = "2024-01-02T03:04:05Z"


def run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def make_base(root: Path) -> None:
    for folder in ("bin", "etc", "tmp", "home/user"):
        (root / folder).mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin" / "busybox")
    (root / "bin" / "busybox").chmod(0o755)
    for applet in ("sh", "ls", "cat"):
        (root / "bin" / applet).symlink_to("busybox")
    os.link(root / "bin" / "busybox", root / "bin" / "hard")
    (root / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
    (root / "etc" / "gone").write_text("x")
    (root / "tmp").chmod(0o1777)
    (root / "etc" / ("long-" * 45)).write_text("a name that needs pax")


def make_second(root: Path) -> None:
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "motd").write_text("héllo\n")
    (root / "etc" / "motd").chmod(0o4755)


def put_layer(store: Store, root: Path, deletions: tuple[bytes, ...], compression: str) -> tuple[Descriptor, str]:
    entries = [Upsert(entry) for entry in scan_tree(str(root)) if entry.path]
    changes: list[Any] = [*entries, *(Delete(path) for path in deletions)]
    changes.sort(key=lambda change: change.entry.path if isinstance(change, Upsert) else change.path)
    with store.blobs.ingest() as ingest:
        written = write_layer(Changes(str(root), changes), ingest.write, compression=compression, epoch_s=1_700_000_000)
        ingest.commit(written.digest)
    return Descriptor(written.media_type, written.digest, written.size_bytes), written.diff_id


def put_image(store: Store, folder: Path, architecture: str, image_format: str = "oci") -> Descriptor:
    base, second = folder / "base", folder / "second"
    if not base.exists():
        make_base(base)
        make_second(second)
    image = Image(ImageConfig())
    image = append_layer(image, *put_layer(store, base, (), "gzip"), History("ADD base", CREATED))
    image = append_empty_layer(image, History('CMD ["sh"]', CREATED, comment="buildkit.dockerfile.v0"))
    second_compression = "none" if image_format == "docker" else "zstd"
    image = append_layer(image, *put_layer(store, second, (b"etc/gone",), second_compression), History("COPY motd", CREATED))
    config = ImageConfig(
        architecture=architecture,
        created=CREATED,
        author="somebody",
        env=(("PATH", "/bin"), ("X", "a=b\nc")),
        cmd=("sh", "-c", "cat /etc/motd"),
        entrypoint=(),
        working_dir="/tmp",
        user="user",
        exposed_ports=("80/tcp",),
        volumes=("/data",),
        labels=(("org.example.é", "ü"),),
        healthcheck=Healthcheck(("CMD", "true"), interval_ns=10**9, retries=3),
        onbuild=("RUN true",),
        stop_signal="SIGTERM",
        shell=("/bin/sh", "-c"),
    )
    assembled = assemble(replace_config(image, config)._replace(annotations=(("org.example.a", "b"),)), image_format)
    store.blobs.put_bytes(assembled.config)
    store.blobs.put_bytes(assembled.manifest)
    return assembled.manifest_descriptor


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store(str(tmp_path_factory.mktemp("judged") / "store")) as store:
        yield store


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("material")


@pytest.fixture(scope="module")
def image(store: Store, material: Path) -> Descriptor:
    return put_image(store, material, "amd64")


@pytest.fixture(scope="module")
def index(store: Store, material: Path, image: Descriptor) -> Descriptor:
    data, descriptor = assemble_index((image, put_image(store, material, "arm64")))
    store.blobs.put_bytes(data)
    return descriptor


def check(document: bytes, schema: dict[str, Any]) -> Any:
    value = json.loads(document)
    jsonschema.Draft202012Validator(schema).validate(value)
    return value


def check_layout(folder: Path) -> None:
    """Every rule that a reader may count on: schemas, digests, sizes, and layers as many as DiffIDs."""
    check((folder / "oci-layout").read_bytes(), rules.LAYOUT)
    pending = check((folder / "index.json").read_bytes(), rules.INDEX)["manifests"]
    while pending:
        entry = pending.pop()
        data = blob(folder, entry)
        if entry["mediaType"].endswith("index.v1+json"):
            pending.extend(check(data, rules.INDEX)["manifests"])
            continue
        manifest = check(data, rules.MANIFEST)
        config = check(blob(folder, manifest["config"]), rules.CONFIG)
        layers = [blob(folder, layer) for layer in manifest["layers"]]
        assert len(layers) == len(config["rootfs"]["diff_ids"])
        assert len(layers) == sum(not line.get("empty_layer") for line in config["history"])


def blob(folder: Path, descriptor: dict[str, Any]) -> bytes:
    algorithm, _, digits = descriptor["digest"].partition(":")
    data = (folder / "blobs" / algorithm / digits).read_bytes()
    assert (len(data), hashlib.sha256(data).hexdigest()) == (descriptor["size"], digits)
    return data


def test_layout_keeps_the_rules_of_the_specification(
    store: Store, image: Descriptor, index: Descriptor, tmp_path: Path
) -> None:
    for name, root in (("one", image), ("several", index)):
        export("oci", store, root, Output(str(tmp_path / name), names=("app:1",)))
        check_layout(tmp_path / name)


def test_skopeo_reads_the_layout(store: Store, image: Descriptor, tmp_path: Path) -> None:
    export("oci", store, image, Output(str(tmp_path / "out"), names=("h.example.com/app:1",)))
    found = json.loads(run("skopeo", "inspect", f"oci:{tmp_path}/out:1"))
    assert found["Digest"] == image.digest
    assert found["Labels"] == {"org.example.é": "ü"}
    assert found["Env"] == ["PATH=/bin", "X=a=b\nc"]
    config = json.loads(run("skopeo", "inspect", "--config", "--raw", f"oci:{tmp_path}/out:1"))
    assert config["config"]["Healthcheck"]["Retries"] == 3


def test_skopeo_copies_each_form_to_the_same_files(store: Store, image: Descriptor, tmp_path: Path) -> None:
    export("oci", store, image, Output(str(tmp_path / "oci"), names=("app:1",)))
    export("oci", store, image, Output(str(tmp_path / "oci.tar"), names=("app:1",)))
    export("docker", store, image, Output(str(tmp_path / "docker.tar"), names=("app:1",)))
    sources = (f"oci:{tmp_path}/oci:1", f"oci-archive:{tmp_path}/oci.tar:1", f"docker-archive:{tmp_path}/docker.tar:app:1")
    configs = set()
    for number, source in enumerate(sources):
        run("skopeo", "--insecure-policy", "copy", source, f"dir:{tmp_path}/copy{number}")
        manifest = json.loads((tmp_path / f"copy{number}" / "manifest.json").read_text())
        configs.add(manifest["config"]["digest"])
    assert len(configs) == 1


def test_skopeo_chooses_the_platform_of_an_index(store: Store, index: Descriptor, tmp_path: Path) -> None:
    export("oci", store, index, Output(str(tmp_path / "out"), names=("app:1",)))
    for architecture in ("amd64", "arm64"):
        found = json.loads(run("skopeo", "--override-arch", architecture, "inspect", f"oci:{tmp_path}/out:1"))
        assert found["Architecture"] == architecture


def test_docker_format_passes_skopeo_unchanged(store: Store, material: Path, tmp_path: Path) -> None:
    image = put_image(store, material, "amd64", "docker")
    export("docker", store, image, Output(str(tmp_path / "docker.tar"), names=("app:1",)))
    with tarfile.open(tmp_path / "docker.tar") as tar:
        (entry,) = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
    assert entry["RepoTags"] == ["app:1"]
    found = json.loads(run("skopeo", "inspect", f"docker-archive:{tmp_path}/docker.tar"))
    assert len(found["Layers"]) == 2


def test_layout_written_twice_still_holds_both_images(store: Store, image: Descriptor, material: Path, tmp_path: Path) -> None:
    other = put_image(store, material, "s390x")
    export("oci", store, image, Output(str(tmp_path / "out"), names=("app:1",)))
    export("oci", store, other, Output(str(tmp_path / "out"), names=("app:2",)))
    check_layout(tmp_path / "out")
    for tag, digest in (("1", image.digest), ("2", other.digest)):
        found = json.loads(run("skopeo", "--override-arch", "s390x", "inspect", f"oci:{tmp_path}/out:{tag}"))
        assert found["Digest"] == digest


@pytest.mark.skipif(shutil.which("umoci") is None, reason="needs umoci")
def test_layout_that_umoci_made_gets_our_image(store: Store, image: Descriptor, tmp_path: Path) -> None:
    run("umoci", "init", "--layout", str(tmp_path / "out"))
    run("umoci", "new", "--image", f"{tmp_path}/out:theirs")
    export("oci", store, image, Output(str(tmp_path / "out"), names=("app:ours",)))
    assert run("umoci", "list", "--layout", str(tmp_path / "out")).split() == ["theirs", "ours"]
    assert json.loads(run("skopeo", "inspect", f"oci:{tmp_path}/out:ours"))["Digest"] == image.digest


def listing(root: Path) -> dict[str, tuple[int, str | int]]:
    """Path -> (mode, link text or size)."""
    found: dict[str, tuple[int, str | int]] = {}
    for folder, folders, names in os.walk(root):
        for name in folders + names:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            what = os.readlink(path) if stat.S_ISLNK(status.st_mode) else 0 if stat.S_ISDIR(status.st_mode) else status.st_size
            found[os.path.relpath(path, root)] = (status.st_mode, what)
    return found


@pytest.mark.root
@pytest.mark.skipif(shutil.which("umoci") is None or os.geteuid() != 0, reason="needs umoci and root")
def test_umoci_unpacks_what_the_rootfs_export_writes(store: Store, material: Path, tmp_path: Path) -> None:
    # umoci 0.4.7 knows no zstd.
    image = put_image(store, material, "amd64", "docker")
    oci = json.loads(
        store.blobs.read(image.digest, 1 << 20).decode().replace("docker.distribution.manifest.v2", "oci.image.manifest.v1")
    )
    oci["config"]["mediaType"] = "application/vnd.oci.image.config.v1+json"
    for layer in oci["layers"]:
        layer["mediaType"] = "application/vnd.oci.image.layer.v1.tar" + ("+gzip" if layer["mediaType"].endswith("gzip") else "")
    data = json.dumps(oci).encode()
    as_oci = Descriptor("application/vnd.oci.image.manifest.v1+json", store.blobs.put_bytes(data), len(data))
    export("oci", store, as_oci, Output(str(tmp_path / "oci"), names=("app:1",)))
    export("rootfs", store, as_oci, Output(str(tmp_path / "rootfs")))
    export("tar", store, as_oci, Output(str(tmp_path / "rootfs.tar")))
    run("umoci", "unpack", "--image", f"{tmp_path}/oci:1", str(tmp_path / "bundle"))
    (tmp_path / "untarred").mkdir()
    run("tar", "-xpf", str(tmp_path / "rootfs.tar"), "-C", str(tmp_path / "untarred"))
    expected = listing(tmp_path / "bundle" / "rootfs")
    assert "etc/gone" not in expected
    assert listing(tmp_path / "rootfs") == expected
    assert listing(tmp_path / "untarred") == expected
    assert os.lstat(tmp_path / "rootfs" / "bin" / "hard").st_ino == os.lstat(tmp_path / "rootfs" / "bin" / "busybox").st_ino
    assert run("chroot", str(tmp_path / "rootfs"), "/bin/cat", "/etc/motd") == "héllo\n"


class Answer:
    """Response, over http.client."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._answer = connection.getresponse()
        self.status = self._answer.status
        self.headers = {name.lower(): value for name, value in self._answer.getheaders()}
        self.read = self._answer.read
        self.close = connection.close


class PlainTransport:
    """Transport, without redirects, TLS or credentials."""

    def request(
        self, method: str, host: str, path: str, headers: Mapping[str, str], body: Body | None, *, timeout_s: float = 60.0
    ) -> Answer:
        connection = http.client.HTTPConnection(host, timeout=timeout_s)
        content = b"" if body is None else b"".join(iter(lambda: body.read(1 << 20), b""))
        path = path.removeprefix(f"http://{host}")
        connection.request(method, path, content, dict(headers) | {"Content-Length": str(len(content))})
        return Answer(connection)


def test_pushed_index_is_what_skopeo_finds_in_the_registry(
    store: Store,
    index: Descriptor,
    plain_registry: RunningRegistry,  # noqa: F811
) -> None:
    repositories = [Repository(PlainTransport(), plain_registry.host, name) for name in ("team/app", "team/copy")]
    pushed = push(store, index, [Destination(repositories[0], ("1", "latest")), Destination(repositories[1], ("1",))])
    assert {found.digest for found in pushed} == {index.digest}
    assert [found.reference for found in pushed][:2] == [f"{plain_registry.host}/team/app:{tag}" for tag in ("1", "latest")]
    for name in ("team/app", "team/copy"):
        address = f"docker://{plain_registry.host}/{name}:1"
        raw = run("skopeo", "inspect", "--raw", "--tls-verify=false", address)
        assert hashlib.sha256(raw.encode()).hexdigest() == index.digest.removeprefix("sha256:")
        for architecture in ("amd64", "arm64"):
            run("skopeo", "--override-arch", architecture, "inspect", "--tls-verify=false", address)
    again = push(store, index, [Destination(repositories[0], ("1",))])
    assert [found.uploaded_bytes for found in again] == [0]
