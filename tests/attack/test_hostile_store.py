"""An executor that was taken over fills the store with traps; the launcher, who may be root, lists, reads and prunes it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandboxbuild.errors import SandboxbuildError
from sandboxbuild.oci.descriptor import OCI_INDEX, OCI_MANIFEST, Descriptor
from sandboxbuild.oci.digest import sha256_digest
from sandboxbuild.store import Store, layout
from sandboxbuild.system import files
from tests.support.promises import EVERYWHERE

HEX = "ab" * 32


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A folder outside the store, which must be the same afterwards."""
    folder = tmp_path / "canary"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "file").write_text("precious")
    os.utime(folder, (1, 1))
    yield folder
    assert (folder / "deep" / "file").read_text() == "precious"
    assert os.listdir(folder) == ["deep"]
    assert folder.stat().st_mtime == 1


@pytest.fixture
def path(tmp_path: Path) -> str:
    with Store(str(tmp_path / "store")) as store:
        store.blobs.put_bytes(b"x")
        return store.path


def use_everything(path: str) -> None:
    """All that a launcher does; each may fail, but only with an error of ours."""
    with Store(path, create=False) as store:
        uses: tuple[Callable[[], object], ...] = (
            store.usage,
            store.images.list,
            lambda: store.images.find("app"),
            lambda: store.images.find(HEX),
            lambda: store.blobs.read("sha256:" + HEX, 1000),
            lambda: store.images.tag("app", Descriptor(OCI_MANIFEST, sha256_digest(b"x"), 1)),
            lambda: store.cache.get(HEX),
            lambda: store.layers.path("sha256:" + HEX),
            store.prune,
            lambda: store.prune(all_unused=True),
            lambda: store.prune(keep_bytes=0),
        )
        for use in uses:
            try:
                use()
            except SandboxbuildError:
                pass


@pytest.mark.promise(8, "a store full of traps leads the launcher nowhere", profiles=EVERYWHERE)
@pytest.mark.parametrize("name", ["blobs/sha256", "layers", "cache", "cache/steps", "images", "builds", "tmp", "prune.lock"])
def test_folder_turned_into_a_link_leads_nowhere(path: str, canary: Path, name: str) -> None:
    target = Path(path, name)
    if target.exists():
        target.rename(path + ".gone")
    target.symlink_to(canary)
    use_everything(path)


@pytest.mark.promise(8, "a store full of traps leads the launcher nowhere", profiles=EVERYWHERE)
@pytest.mark.parametrize(
    "name",
    [f"blobs/sha256/{HEX}", f"layers/{HEX}", f"cache/steps/{HEX}", f"images/{HEX}.json", "builds/x.lock", "tmp/x"]
    + ["cache/hashes", "tmp/.x", "tmp/new\nline"],
)
@pytest.mark.parametrize("trap", ["folder link", "file link", "dangling link", "fifo", "folder", "folder of links"])
def test_trap_in_the_place_of_an_item_is_not_followed(path: str, canary: Path, name: str, trap: str) -> None:
    target = os.path.join(path, name)
    if trap == "folder link":
        os.symlink(canary, target)
    elif trap == "file link":
        os.symlink(canary / "deep" / "file", target)
    elif trap == "dangling link":
        os.symlink(canary / "new", target)
    elif trap == "fifo":
        os.mkfifo(target)
    else:
        os.mkdir(target)
        if trap == "folder of links":
            for link in ("fs", "made", "deep"):
                os.symlink(canary, os.path.join(target, link))
    use_everything(path)


@pytest.mark.promise(8, "a store full of traps leads the launcher nowhere", profiles=EVERYWHERE)
def test_layer_with_links_inside_is_removed_and_not_its_targets(path: str, canary: Path) -> None:
    with Store(path, create=False) as store, store.layers.staging() as staging:
        os.symlink(canary, os.path.join(staging, "link"))
        os.mkdir(os.path.join(staging, "closed"), 0o000)
        store.layers.commit(staging, "sha256:" + HEX)
    with Store(path, create=False) as store:
        assert store.prune(all_unused=True).layers == 1


def test_image_with_a_million_children_is_bounded(path: str) -> None:
    """An index whose children are indexes of indexes is read once each, however often it is named."""
    with Store(path, create=False) as store:
        described = Descriptor(OCI_MANIFEST, sha256_digest(b"x"), 1)
        for _ in range(12):
            entry = {"mediaType": described.media_type, "digest": described.digest, "size": described.size_bytes}
            data = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry] * 50}).encode()
            described = Descriptor(OCI_INDEX, store.blobs.put_bytes(data), len(data))
        store.images.tag("app", described)
        assert len(store.images.reachable(described)) == 13
        assert store.usage().images == 1


@pytest.mark.promise(8, "a store full of traps leads the launcher nowhere", profiles=EVERYWHERE)
@pytest.mark.parametrize("field", ["digest", "name"])
@pytest.mark.parametrize("value", ["../../canary", "sha256:../../canary", "a" * 10_000, "\u202egpj.exe", "x\ny"])
def test_entry_never_becomes_a_path(path: str, canary: Path, field: str, value: str) -> None:
    entry = {"name": "app", "descriptor": {"mediaType": OCI_MANIFEST, "digest": sha256_digest(b"x"), "size": 1}}
    if field == "name":
        entry["name"] = value
    else:
        entry["descriptor"]["digest"] = value  # type: ignore[index]
    with Store(path, create=False) as store:
        file = store.images.file_of("docker.io/library/app:latest")
        Path(path, "images", file).write_text(json.dumps(entry))
        assert store.images.list() == ()
    use_everything(path)


@pytest.mark.without_defence(8, "a store full of traps leads the launcher nowhere", profiles=EVERYWHERE)
def test_where_links_are_followed_a_prune_empties_what_they_name(
    tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bait" / "deep").mkdir(parents=True)
    (tmp_path / "bait" / "deep" / "file").write_text("gone")
    Path(path, "tmp").rename(path + ".gone")
    Path(path, "tmp").symlink_to(tmp_path / "bait")
    monkeypatch.setattr(files, "_BENEATH", 0)
    monkeypatch.setattr(layout, "_DIRECTORY", layout._DIRECTORY & ~os.O_NOFOLLOW)
    use_everything(path)
    assert "deep" not in os.listdir(tmp_path / "bait")
