"""Bounded JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.errors import RegistryError
from sandboxbuild.oci.documents import Fields, encode_document, parse_document


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"1",
        b'{"a":1,"a":1}',
        b'{"x":{"a":1,"a":2}}',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":"\\u0000"}',
        b'{"\\ud800":1}',
        b'{"a":"\\uDFFF x"}',
        b'{"a":"\xff"}',
        b'\xef\xbb\xbf{"a":1}',
        '{"a":1}'.encode("utf-16"),
        b'{"a":1}x',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a":' + b"[" * 33 + b"]" * 33 + b"}",
        b'{"a":' + b"1" * 5000 + b"}",
    ],
)
def test_odd_json_is_refused(data: bytes) -> None:
    with pytest.raises(RegistryError):
        parse_document(data, "the document")


def test_document_over_its_size_is_refused_unread() -> None:
    with pytest.raises(RegistryError, match="more than 10"):
        parse_document(b'{"a":"bcdefgh"}', "the document", max_bytes=10)


def test_escaped_backslash_before_u0000_is_plain_text() -> None:
    assert parse_document(b'{"a":"\\\\u0000"}', "the document").text("a") == "\\u0000"


def test_surrogate_pair_is_one_character() -> None:
    assert parse_document(b'{"a":"\\ud83d\\ude00"}', "the document").text("a") == "\U0001f600"


@pytest.mark.parametrize(
    ("method", "value"),
    [
        ("text", 1),
        ("text", []),
        ("integer", "1"),
        ("integer", True),
        ("integer", -1),
        ("integer", 1.0),
        ("integer", 2**63),
        ("flag", 1),
        ("texts", "a"),
        ("texts", [1]),
        ("text_map", []),
        ("text_map", {"a": 1}),
        ("names", ["a"]),
        ("names", {"a": 1}),
        ("object", []),
    ],
)
def test_field_of_another_type_is_refused(method: str, value: object) -> None:
    with pytest.raises(RegistryError, match="'a'"):
        getattr(Fields({"a": value}, "the document"), method)("a")


def test_null_is_absent() -> None:
    fields = Fields({"a": None}, "the document")
    assert (fields.text("a", "x"), fields.integer("a"), fields.texts("a"), fields.object("a")) == ("x", 0, None, None)
    assert "a" not in fields


def test_too_long_list_is_refused() -> None:
    with pytest.raises(RegistryError, match="more than 2"):
        Fields({"a": [{}, {}, {}]}, "the document").objects("a", 2)


def test_known_field_in_other_letters_is_refused() -> None:
    fields = Fields({"layers": 1, "Layers": 2, "x": 3}, "the document")
    with pytest.raises(RegistryError, match="other letters"):
        fields.unknown(frozenset({"layers"}))
    assert Fields({"layers": 1, "x": 3}, "the document").unknown(frozenset({"layers"})) == {"x": 3}


def test_equal_values_encode_to_equal_bytes() -> None:
    assert encode_document({"b": 1, "a": "é"}) == encode_document({"a": "é", "b": 1}) == '{"a":"é","b":1}'.encode()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2**62) | st.text("aé=\0\\/ \u2028", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("aé=\0\\/ \u2028", max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60)
@given(st.dictionaries(st.text("aé=\0\\/ \u2028", max_size=4), JSON, max_size=4))
def test_document_reads_back_or_is_refused(value: dict[str, object]) -> None:
    data = json.dumps(value).encode()
    try:
        fields = parse_document(data, "the document")
    except RegistryError:
        assert "\\u0000" in data.decode()
        return
    assert fields.unknown(frozenset()) == value


@settings(max_examples=60)
@given(st.binary(max_size=40))
def test_any_bytes_are_a_document_or_refused(data: bytes) -> None:
    try:
        parse_document(data, "the document")
    except RegistryError:
        pass
