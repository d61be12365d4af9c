"""Deltas of packs (gitformat-pack, "Deltified representation"): a base and instructions give an object. Pure."""

from __future__ import annotations

from sandboxbuild.errors import ContextError, LimitExceeded


def apply_delta(base: bytes, delta: bytes, limit_bytes: int) -> bytes:
    """The object. Raises ContextError for instructions that don't fit, LimitExceeded for a result above the limit."""
    base_size, at = read_size(delta, 0)
    result_size, at = read_size(delta, at)
    if base_size != len(base):
        raise ContextError("the repository's pack has a delta for another base")
    if result_size > limit_bytes:
        raise LimitExceeded(f"the repository has an object of more than {limit_bytes} bytes")
    parts: list[bytes] = []
    made = 0
    while at < len(delta):
        instruction = delta[at]
        at += 1
        if instruction & 0x80:
            offset, size, at = _read_copy(delta, at, instruction)
            part = base[offset : offset + size]
        else:
            size = instruction
            part = delta[at : at + size]
            at += size
        made += size
        if not size or len(part) != size or made > result_size:
            raise ContextError("the repository's pack has a malformed delta")
        parts.append(part)
    if made != result_size:
        raise ContextError("the repository's pack has a malformed delta")
    return b"".join(parts)


def _read_copy(delta: bytes, at: int, instruction: int) -> tuple[int, int, int]:
    """Offset, size and the place behind; the instruction's bits say which bytes of the two are there."""
    offset = size = 0
    for bit in range(7):
        if not instruction & 1 << bit:
            continue
        if at >= len(delta):
            raise ContextError("the repository's pack has a malformed delta")
        if bit < 4:
            offset |= delta[at] << 8 * bit
        else:
            size |= delta[at] << 8 * (bit - 4)
        at += 1
    return offset, size or 0x10000, at


def read_size(data: bytes, at: int) -> tuple[int, int]:
    """A size in groups of seven bits, the lowest first, and the place behind it."""
    size = 0
    for position in range(at, min(at + 9, len(data))):
        size |= (data[position] & 0x7F) << 7 * (position - at)
        if not data[position] & 0x80:
            return size, position + 1
    raise ContextError("the repository's pack has a malformed size")
