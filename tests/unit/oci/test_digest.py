"""Digests."""

from __future__ import annotations

import hashlib

import pytest

from sandboxbuild.errors import IntegrityError
from sandboxbuild.oci.digest import Verifier, chain_id, chain_ids, extend_chain, parse_digest, sha256_digest, verify

HEX = "a" * 64


def test_digest_of_each_algorithm_passes() -> None:
    for digest in (f"sha256:{HEX}", "sha512:" + "0" * 128):
        assert parse_digest(digest) == digest


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEX,
        "sha256:",
        f"sha256:{HEX[1:]}",
        f"sha256:{HEX}a",
        f"sha256:{HEX.upper()}",
        f"SHA256:{HEX}",
        "sha256:../x",
        f"sha256:{HEX}\n",
        f" sha256:{HEX}",
        f"md5:{HEX[:32]}",
        "sha512:" + HEX,
        f"sha256:{'/' * 64}",
        "sha256:" + "\u0660" * 64,
        f"sha256:{HEX[:-1]}g",
        f"sha256+b64:{HEX}",
    ],
)
def test_anything_else_is_no_digest(text: str) -> None:
    with pytest.raises(IntegrityError):
        parse_digest(text)


def test_verifier_takes_the_right_bytes_in_pieces() -> None:
    verifier = Verifier(sha256_digest(b"hello world"), 11)
    for piece in (b"hello", memoryview(b" "), b"world"):
        verifier.update(piece)
    verifier.finish()


def test_sha512_is_verified() -> None:
    verify(b"abc", "sha512:" + hashlib.sha512(b"abc").hexdigest())


def test_one_wrong_byte_is_an_integrity_error() -> None:
    with pytest.raises(IntegrityError):
        verify(b"hello worle", sha256_digest(b"hello world"))


def test_endless_bytes_are_stopped_at_the_promised_size() -> None:
    verifier = Verifier(sha256_digest(b"abc"), 3)
    verifier.update(b"abc")
    with pytest.raises(IntegrityError):
        verifier.update(b"d")


def test_too_few_bytes_are_an_integrity_error() -> None:
    with pytest.raises(IntegrityError):
        verify(b"ab", sha256_digest(b"abc"), 3)


def test_chain_of_one_layer_is_its_diff_id() -> None:
    assert chain_id([f"sha256:{HEX}"]) == f"sha256:{HEX}"


def test_chain_of_two_layers_hashes_parent_and_diff_id() -> None:
    lower, upper = f"sha256:{HEX}", "sha256:" + "b" * 64
    expected = "sha256:" + hashlib.sha256(f"{lower} {upper}".encode()).hexdigest()
    assert chain_id([lower, upper]) == expected == extend_chain(lower, upper)
    assert chain_ids([lower, upper]) == (lower, expected)


def test_chain_of_nothing_is_empty() -> None:
    assert chain_id([]) == ""
