"""Finished steps by their cache key: which layer a step gave."""

from __future__ import annotations

import hashlib
import os
import re
from typing import Any, Final, NamedTuple

from sandboxbuild.errors import SandboxbuildError
from sandboxbuild.oci.descriptor import Descriptor, decode_descriptor, encode_descriptor
from sandboxbuild.oci.digest import parse_digest
from sandboxbuild.oci.documents import encode_document, parse_document
from sandboxbuild.store.disk import unlink_if_there
from sandboxbuild.store.layout import read_small
from sandboxbuild.store.leases import using
from sandboxbuild.store.scratch import Scratch

FOLDER: Final = "cache/steps"
_KEY: Final = re.compile(r"(?:sha256:)?([0-9a-f]{64})", re.ASCII)
_MAX_BYTES: Final = 64 * 1024


class StepRecord(NamedTuple):
    """What a step gave. `layer` None: it changed no file. `chain_id` names the filesystem after it; `created` is RFC 3339."""

    layer: Descriptor | None
    diff_id: str
    chain_id: str
    created: str


class StepCache:
    """Thread-safe, and safe with other processes: the last to put a key wins."""

    __slots__ = ("_scratch",)

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch

    def get(self, key: str) -> StepRecord | None:
        """The record, or None; marks it as used. One that can't be read counts as absent."""
        folder, name = self._scratch.root.folder(FOLDER), _file_name(key)
        with using(self._scratch.root):
            try:
                data = read_small(folder, name, _MAX_BYTES)
                os.utime(name, dir_fd=folder, follow_symlinks=False)
            except OSError:
                return None
        return decode_record(data)

    def put(self, key: str, record: StepRecord) -> None:
        """Remember what the step of `key` gave. Raises LimitExceeded if the disk is full."""
        with using(self._scratch.root):
            self._scratch.write_small(FOLDER, _file_name(key), encode_record(record))

    def remove(self, key: str) -> None:
        """Forget a record whose layer turned out to be gone. Absent is fine."""
        unlink_if_there(self._scratch.root.folder(FOLDER), _file_name(key))


def encode_record(record: StepRecord) -> bytes:
    document: dict[str, Any] = {"diff_id": record.diff_id, "chain_id": record.chain_id, "created": record.created}
    if record.layer is not None:
        document["layer"] = encode_descriptor(record.layer)
    return encode_document(document)


def decode_record(data: bytes) -> StepRecord | None:
    """None for what is no record: a file torn by a power loss."""
    try:
        fields = parse_document(data, "the step's record", _MAX_BYTES)
        layer = fields.object("layer")
        return StepRecord(
            None if layer is None else decode_descriptor(layer),
            _digest_or_empty(fields.text("diff_id")),
            _digest_or_empty(fields.text("chain_id")),
            fields.text("created"),
        )
    except SandboxbuildError:
        return None


def _digest_or_empty(text: str) -> str:
    return parse_digest(text) if text else ""


def _file_name(key: str) -> str:
    """A key that is a digest names its file; any other text is hashed into a name."""
    match = _KEY.fullmatch(key)
    return match.group(1) if match is not None else hashlib.sha256(key.encode()).hexdigest()
