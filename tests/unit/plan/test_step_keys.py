from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.fstree.actions import MakeDirectory, MakeHardlink, MakeNode, MakeSymlink, UnpackArchive, WriteBytes, WriteFile
from sandboxbuild.fstree.entry import Entry
from sandboxbuild.plan import operations
from sandboxbuild.plan.keys import content_digest, encode, step_key
from sandboxbuild.plan.operations import (
    BindMount,
    CacheMount,
    ContextSource,
    CopyOp,
    GitSource,
    ImageSource,
    InlineSource,
    RunOp,
    SecretMount,
    SshMount,
    StageSource,
    TmpfsMount,
    UrlSource,
    WorkdirOp,
)
from tests.unit.plan.trees import file

RUN = RunOp(
    argv=("/bin/sh", "-c", "make"),
    env=(("A", "1"),),
    cwd="/",
    scripts=(("/dev/pipes/x", b"#!/bin/sh"),),
    mounts=(
        BindMount("/b", StageSource(0)),
        CacheMount("/c", "id", source=ImageSource("img")),
        TmpfsMount("/t"),
        SecretMount("s"),
        SshMount(),
    ),
)
COPY = CopyOp(
    (ContextSource("ctx"), InlineSource((("f", b"x"),)), UrlSource("http://u"), GitSource("https://g"), StageSource(1)),
    (("a",), (), (), (), ("b",)),
    "/d/",
)
WORKDIR = WorkdirOp("/w")


def other(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, bytes):
        return value + b"x"
    if value is None:
        return StageSource(99)
    return ("x",)


def variants(value: Any) -> Iterator[Any]:
    """Every value that differs from `value` in one field or item, at any depth."""
    if not isinstance(value, tuple) or not value:
        yield other(value)
        return
    yield from ([] if hasattr(value, "_fields") else [value[:-1], (*value, value[-1])])
    for number, item in enumerate(value):
        for changed in variants(item):
            items = (*value[:number], changed, *value[number + 1 :])
            yield type(value)(*items) if hasattr(value, "_fields") else items


def key(op: Any, **more: Any) -> str:
    return step_key("parent", op, **{"platform": "linux/amd64", **more})


@pytest.mark.parametrize("op", [RUN, COPY, WORKDIR], ids=lambda op: type(op).__name__)
def test_two_operations_that_differ_in_one_field_have_two_keys(op: Any) -> None:
    found = list(variants(op))
    if isinstance(op, RunOp):
        found = [variant for variant in found if variant.env_uncached == op.env_uncached]
    assert len(found) >= len(op) - isinstance(op, RunOp)
    keys = {key(op), *(key(variant) for variant in found)}
    assert len(keys) == len({repr(variant) for variant in found}) + 1


def test_every_operation_is_tried() -> None:
    assert set(operations.Op.__args__) == {type(RUN), type(COPY), type(WORKDIR)}  # type: ignore[attr-defined]
    assert set(operations.Mount.__args__) == {type(mount) for mount in RUN.mounts}  # type: ignore[attr-defined]


def test_proxies_enter_no_key() -> None:
    assert key(RUN) == key(RUN._replace(env_uncached=(("http_proxy", "http://p"),)))


def test_all_that_surrounds_a_step_enters_its_key() -> None:
    keys = [
        key(RUN),
        step_key("other", RUN, platform="linux/amd64"),
        key(RUN, platform="linux/arm64"),
        key(RUN, content=("sha256:1",)),
        key(RUN, content=("sha256:1", "sha256:2")),
        key(RUN, content=("sha256:1sha256:2",)),
        key(RUN, policy={"network": "none"}),
        key(RUN, policy={"network": "none", "a": "b"}),
    ]
    assert len(set(keys)) == len(keys)
    assert all(len(item) == len("sha256:") + 64 for item in keys)


def test_a_key_is_the_same_in_every_process() -> None:
    assert (
        key(WORKDIR)
        == "sha256:" + hashlib.sha256(encode(("sandboxbuild step key 1", "parent", "linux/amd64", WORKDIR, (), ()))).hexdigest()
    )


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=6,
)


def typed(value: Any) -> Any:
    """A value that is only equal to one of the same types: True is not 1 here."""
    return (type(value), tuple(typed(item) for item in value)) if isinstance(value, tuple) else (type(value), value)


@settings(max_examples=150, deadline=None)
@given(VALUES, VALUES)
def test_different_values_have_different_encodings(one: Any, two: Any) -> None:
    assert (encode(one) == encode(two)) is (typed(one) == typed(two))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ab:1", max_size=4), max_size=4), st.lists(st.text("ab:1", max_size=4), max_size=4))
def test_words_cannot_run_into_each_other(one: list[str], two: list[str]) -> None:
    assert (encode(tuple(one)) == encode(tuple(two))) is (one == two)


def test_what_is_no_plain_value_is_refused() -> None:
    with pytest.raises(TypeError):
        encode(["list"])


ENTRY = Entry(b"src/f", 0o100644, inode=(1, 2), mtime_ns=5, ctime_ns=6, xattrs=(("user.a", b"1"),))
ACTIONS = (
    MakeDirectory(b"d", 0o755, 0, 0, 1),
    WriteFile(b"d/f", 0, ENTRY, 0o644, 0, 0, 5),
    WriteBytes(b"d/g", b"inline", 0o644, 0, 0, 5),
    MakeSymlink(b"d/l", b"f", 0, 0, 5),
    MakeHardlink(b"d/h", b"d/f"),
    MakeNode(b"d/n", 0o10644, (0, 0), 0, 0, 5),
    UnpackArchive(b"d", 0, ENTRY),
)


def digest(*actions: Any, hashed: str = "sha256:c") -> str:
    return content_digest(COPY, actions, lambda origin, entry: f"{hashed}{origin}")


def test_no_time_enters_the_digest_of_what_is_taken() -> None:
    later = ENTRY._replace(mtime_ns=50, ctime_ns=60, inode=(7, 7), path=b"elsewhere/f")
    moved = tuple(action._replace(mtime_ns=99) if hasattr(action, "mtime_ns") else action for action in ACTIONS)
    moved = tuple(action._replace(source=later) if hasattr(action, "source") else action for action in moved)
    assert digest(*ACTIONS) == digest(*moved)


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: type(action).__name__)
def test_what_is_taken_enters_with_each_of_its_fields(action: Any) -> None:
    for field in set(action._fields) - {"mtime_ns", "source"}:
        for changed in variants(getattr(action, field)):
            assert digest(action) != digest(action._replace(**{field: changed})), field
    if hasattr(action, "source"):
        assert digest(action) != digest(action, hashed="sha256:d")
        assert digest(action) != digest(action._replace(source=ENTRY._replace(xattrs=())))


def test_order_and_number_of_what_is_taken_matter() -> None:
    one, two = (WriteFile(path, 0, file("f"), 0o644, 0, 0, 5) for path in (b"a", b"b"))
    assert len({digest(one, two), digest(two, one), digest(one), digest(one, one), digest()}) == 5
