"""Cache keys: what a step's result depends on, as one digest.

The encoding is injective: every value carries its type and its length or count, every field its name, so that no two inputs
give the same bytes. Times of files enter no key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from sandboxbuild.fstree.actions import FileAction, UnpackArchive, WriteFile
from sandboxbuild.fstree.entry import Entry
from sandboxbuild.plan.operations import CopyOp, Op, RunOp

VERSION: Final = "sandboxbuild step key 1"
CONTENT_VERSION: Final = "sandboxbuild content digest 1"

HashOf = Callable[[int, Entry], str]


def step_key(
    parent_key: str,
    op: Op,
    *,
    platform: str,
    content: Sequence[str] = (),
    policy: Mapping[str, str] | None = None,
) -> str:
    """The key of one step, "sha256:<hex>".

    `parent_key` stands for all that came before: a base's chain id or the key of the step before. `content` are digests of
    what the op reads elsewhere, in the order in which it names it: for a CopyOp its sources', for a RunOp its mounts'.
    `policy` are the rules and profile values that can change the result. Secrets enter by their id, never by content;
    `env_uncached` doesn't enter.
    """
    if isinstance(op, RunOp):
        op = op._replace(env_uncached=())
    return _digest((VERSION, parent_key, platform, op, tuple(content), tuple(sorted((policy or {}).items()))))


def content_digest(op: CopyOp, actions: Iterable[FileAction], hash_of: HashOf) -> str:
    """The digest of everything that a COPY or ADD takes: names, types, modes, ids, attributes, link targets, content.

    `actions` are best decided for an empty target: then the digest is known without the target. `hash_of(i, entry)` is the
    digest of a file's bytes in source i. What only the target decides is in the parent key.
    """
    del op  # the op enters by `step_key`; here only what it takes
    encoder = hashlib.sha256()
    encoder.update(encode(CONTENT_VERSION))
    for action in actions:
        encoder.update(encode(_timeless(action, hash_of)))
    return f"sha256:{encoder.hexdigest()}"


def _timeless(action: FileAction, hash_of: HashOf) -> tuple[str, tuple[tuple[str, object], ...]]:
    """An action by name and field, less its times; a source entry stands for its content and attributes alone."""
    fields: dict[str, object] = dict(action._asdict())
    fields.pop("mtime_ns", None)
    if isinstance(action, WriteFile | UnpackArchive):
        fields["source"] = (hash_of(action.origin, action.source), action.source.xattrs)
    return type(action).__name__, tuple(fields.items())


def _digest(value: object) -> str:
    return f"sha256:{hashlib.sha256(encode(value)).hexdigest()}"


def encode(value: object) -> bytes:
    """Values of None, bool, int, str, bytes, tuples and NamedTuples as bytes: different values, different bytes.

    A NamedTuple is encoded with its name and its fields' names. Raises TypeError for anything else, such as a list.
    """
    if value is None:
        return b"n"
    if isinstance(value, bool):
        return b"b1" if value else b"b0"
    if isinstance(value, int):
        return _framed(b"i", b"%d" % value)
    if isinstance(value, str):
        return _framed(b"s", value.encode("utf-8", "surrogateescape"))
    if isinstance(value, bytes):
        return _framed(b"y", value)
    if isinstance(value, tuple):
        return _encode_tuple(value)
    raise TypeError(f"a key can't hold a {type(value).__name__}")


def _encode_tuple(value: tuple[object, ...]) -> bytes:
    names: tuple[str, ...] = getattr(value, "_fields", ())
    if not names:
        return b"t%d:" % len(value) + b"".join(encode(item) for item in value)
    pairs = (encode(name) + encode(item) for name, item in zip(names, value, strict=True))
    return b"r" + encode(type(value).__name__) + b"%d:" % len(value) + b"".join(pairs)


def _framed(tag: bytes, payload: bytes) -> bytes:
    return tag + b"%d:" % len(payload) + payload
