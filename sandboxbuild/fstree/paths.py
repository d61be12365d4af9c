"""Path text as Go's path package cleans it, since the Dockerfile's rules are written in its terms. No file is looked at."""

from __future__ import annotations


def clean(path: str) -> str:
    """The shortest equal path, by the text alone (Go path.Clean): no `.`, no `//`, `..` only in front; "" is "."."""
    rooted = path.startswith("/")
    parts: list[str] = []
    for part in path.split("/"):
        if part in ("", "."):
            continue
        if part != "..":
            parts.append(part)
        elif parts and parts[-1] != "..":
            parts.pop()
        elif not rooted:
            parts.append(part)
    joined = "/".join(parts)
    return "/" + joined if rooted else joined or "."


def rooted(path: str) -> str:
    """`path` below a root, without the leading slash: `..` is clamped, the root is ""."""
    return clean("/" + path)[1:]


def encode(path: str) -> bytes:
    """Text of a Dockerfile as the kernel's bytes; bytes that are no UTF-8 travel as surrogates."""
    return path.encode("utf-8", "surrogateescape")


def decode(path: bytes) -> str:
    """The reverse of `encode`."""
    return path.decode("utf-8", "surrogateescape")


def join(parent: bytes, name: bytes) -> bytes:
    """`name` in `parent`, where b"" is the root."""
    return parent + b"/" + name if parent else name


def parent_of(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]


def name_of(path: bytes) -> bytes:
    return path.rpartition(b"/")[2]
