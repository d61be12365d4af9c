"""Images and their edits."""

from __future__ import annotations

import json

import pytest

from sandboxbuild.errors import IntegrityError
from sandboxbuild.oci import descriptor as types
from sandboxbuild.oci.config import History, ImageConfig, decode_config
from sandboxbuild.oci.descriptor import Descriptor
from sandboxbuild.oci.digest import chain_id, sha256_digest
from sandboxbuild.oci.image import Image, image_of
from sandboxbuild.oci.manifest import decode_index, decode_manifest
from sandboxbuild.oci.mutate import (
    append_empty_layer,
    append_layer,
    assemble,
    assemble_index,
    complete_history,
    rebase,
    replace_config,
)

ONE, TWO, THREE = ("sha256:" + digit * 64 for digit in "123")


def layer(diff_id: str) -> Descriptor:
    return Descriptor(types.OCI_LAYER_GZIP, sha256_digest(diff_id.encode()), 10)


def stacked(*diff_ids: str) -> Image:
    image = Image(ImageConfig())
    for diff_id in diff_ids:
        image = append_layer(image, layer(diff_id), diff_id, History(created_by=f"make {diff_id[7]}"))
    return image


def test_appended_layer_is_in_config_history_and_chain() -> None:
    image = stacked(ONE, TWO)
    assert image.config.diff_ids == (ONE, TWO)
    assert image.chain_id == chain_id([ONE, TWO])
    assert [entry.empty_layer for entry in image.config.history] == [False, False]


def test_appending_leaves_the_old_image_alone() -> None:
    base = stacked(ONE)
    append_layer(base, layer(TWO), TWO, History())
    assert base == stacked(ONE)


def test_empty_layer_is_a_line_of_history_alone() -> None:
    image = append_empty_layer(stacked(ONE), History(created_by="ENV A=1"))
    assert (len(image.layers), len(image.config.history), image.config.history[-1].empty_layer) == (1, 2, True)


def test_replaced_config_keeps_the_layers() -> None:
    image = replace_config(stacked(ONE), ImageConfig(user="nobody"))
    assert (image.config.user, image.config.diff_ids, len(image.config.history)) == ("nobody", (ONE,), 1)


def test_missing_history_is_filled_in() -> None:
    assert complete_history(ImageConfig(diff_ids=(ONE, TWO))) == (History(), History())


def test_history_with_too_many_layers_loses_the_last_ones() -> None:
    history = (History("a"), History("b"), History("c"))
    assert [entry.empty_layer for entry in complete_history(ImageConfig(diff_ids=(ONE,), history=history))] == [
        False,
        True,
        True,
    ]


def test_rebase_puts_own_layers_on_the_new_base() -> None:
    image = append_empty_layer(stacked(ONE, TWO), History("ENV"))
    rebased = rebase(image, stacked(ONE), stacked(THREE))
    assert rebased.config.diff_ids == (THREE, TWO)
    assert [entry.created_by for entry in rebased.config.history] == ["make 3", "make 2", "ENV"]
    assert rebased.chain_id == chain_id([THREE, TWO])


def test_rebase_from_a_strange_base_is_refused() -> None:
    with pytest.raises(ValueError, match="not built"):
        rebase(stacked(ONE, TWO), stacked(THREE), stacked(ONE))


def test_documents_tell_of_the_same_image() -> None:
    assembled = assemble(stacked(ONE, TWO))
    manifest, config = decode_manifest(assembled.manifest), decode_config(assembled.config)
    assert image_of(manifest, config) == stacked(ONE, TWO)
    assert manifest.config == assembled.config_descriptor
    assert assembled.manifest_descriptor.digest == sha256_digest(assembled.manifest)
    assert assembled.manifest_descriptor.platform == "linux/amd64"


def test_assembling_twice_gives_the_same_bytes() -> None:
    assert assemble(stacked(ONE)) == assemble(stacked(ONE))


def test_docker_format_has_docker_types_throughout() -> None:
    document = json.loads(assemble(stacked(ONE), "docker").manifest)
    assert document["mediaType"] == types.DOCKER_MANIFEST
    assert document["config"]["mediaType"] == types.DOCKER_CONFIG
    assert document["layers"][0]["mediaType"] == types.DOCKER_LAYER_GZIP


def test_index_names_each_platform() -> None:
    data, descriptor = assemble_index((assemble(stacked(ONE)).manifest_descriptor,))
    assert (descriptor.digest, descriptor.media_type) == (sha256_digest(data), types.OCI_INDEX)
    assert decode_index(data).manifests[0].platform == "linux/amd64"


def test_manifest_and_config_of_different_layers_are_refused() -> None:
    manifest = decode_manifest(assemble(stacked(ONE)).manifest)
    with pytest.raises(IntegrityError):
        image_of(manifest, stacked(ONE, TWO).config)
