"""Codec: NamedTuples to JSON and back, by their annotations, with the standard library alone.

A message is `{"type": CLASS, "value": {FIELD: ...}}`. Bytes travel as base64, tuples as arrays, a nested NamedTuple as an
object. Reading is strict: an unknown type or field, a missing one without a default, a duplicate key, a value of another
type, NaN and a number out of 64 bits are each a ProtocolError. Annotations are looked at when a class is first read, not
at import.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Callable, Iterable, Mapping
from types import NoneType
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints

from sandboxbuild.errors import ProtocolError

INTEGER_LIMIT: Final = 2**63

Message = TypeVar("Message")
Decoder = Callable[[Any, str], Any]  # (a JSON value, the place for an error message) -> a value


def encode(message: Any) -> bytes:
    """A NamedTuple as the payload of a frame. Raises ProtocolError for what JSON can't say."""
    tagged = {"type": type(message).__name__, "value": _plain(message)}
    try:
        return json.dumps(tagged, separators=(",", ":"), allow_nan=False).encode("ascii")
    except (ValueError, TypeError, RecursionError) as error:
        raise ProtocolError(f"{type(message).__name__} can't be encoded: {error}") from error


def decode(payload: bytes, types: Iterable[type[Message]]) -> Message:
    """The message in `payload`, which must be of one of the NamedTuple classes `types`."""
    name, value = untag(payload)
    for cls in types:
        if cls.__name__ == name:
            decoded: Message = _decoder(cls)(value, name)
            return decoded
    raise ProtocolError(f"a message of unknown type {name[:64]!r}")


def make_decoders(types: Iterable[type[Any]]) -> None:
    """Look at the annotations of `types` now, and not when the first of them comes."""
    for cls in types:
        _decoder(cls)


def untag(payload: bytes) -> tuple[str, dict[str, Any]]:
    """The type's name and the bare JSON object of a message. Only the envelope is checked."""
    document = parse_json(payload)
    if not isinstance(document, dict) or set(document) != {"type", "value"}:
        raise ProtocolError("a message without its envelope of type and value")
    name, value = document["type"], document["value"]
    if not isinstance(name, str) or not isinstance(value, dict):
        raise ProtocolError("a message whose type or value is of the wrong kind")
    return name, value


def parse_json(payload: bytes) -> Any:
    """A JSON document in UTF-8 without duplicate keys, NaN or infinities."""
    try:
        return json.loads(payload.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a message that is not JSON as agreed: {str(error)[:200]}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError("duplicate key")
    return unique


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number here")


def _plain(value: Any) -> Any:
    fields: tuple[str, ...] | None = getattr(value, "_fields", None)
    if fields is not None:
        return {name: _plain(part) for name, part in zip(fields, value, strict=True)}
    if isinstance(value, bytes):
        return binascii.b2a_base64(value, newline=False).decode("ascii")
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return value


_DECODERS: Final[dict[Any, Decoder]] = {}  # filled as classes are first seen; the same for every caller


def _decoder(annotation: Any) -> Decoder:
    known = _DECODERS.get(annotation)
    if known is None:
        known = _DECODERS[annotation] = _make_decoder(annotation)
    return known


def _make_decoder(annotation: Any) -> Decoder:
    scalar = _SCALARS.get(annotation)
    if scalar is not None:
        return scalar
    if hasattr(annotation, "_fields"):
        return _tuple_class_decoder(annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is tuple and arguments[-1] is Ellipsis:
        return _sequence_decoder(_decoder(arguments[0]))
    if origin is tuple:
        return _fixed_decoder([_decoder(argument) for argument in arguments])
    if NoneType in arguments and len(arguments) == 2:
        return _optional_decoder(_decoder(arguments[0] if arguments[1] is NoneType else arguments[1]))
    raise TypeError(f"no codec for {annotation!r}")


def _tuple_class_decoder(cls: Any) -> Decoder:
    decoders: Mapping[str, Decoder] = {name: _decoder(hint) for name, hint in get_type_hints(cls).items()}
    required = frozenset(decoders) - frozenset(cls._field_defaults)

    def decode_object(value: Any, place: str) -> Any:
        if not isinstance(value, dict):
            raise ProtocolError(f"{place}: an object is expected")
        unknown = value.keys() - decoders.keys()
        if unknown:
            raise ProtocolError(f"{place}: unknown field {min(unknown)[:64]!r}")
        missing = required - value.keys()
        if missing:
            raise ProtocolError(f"{place}: no field {min(missing)!r}")
        return cls(**{name: decoders[name](part, f"{place}.{name}") for name, part in value.items()})

    return decode_object


def _sequence_decoder(item: Decoder) -> Decoder:
    def decode_array(value: Any, place: str) -> Any:
        return tuple(item(part, f"{place}[{index}]") for index, part in enumerate(_array(value, place)))

    return decode_array


def _fixed_decoder(items: list[Decoder]) -> Decoder:
    def decode_array(value: Any, place: str) -> Any:
        if len(_array(value, place)) != len(items):
            raise ProtocolError(f"{place}: {len(items)} items are expected")
        return tuple(item(part, f"{place}[{index}]") for index, (item, part) in enumerate(zip(items, value, strict=True)))

    return decode_array


def _array(value: Any, place: str) -> list[Any]:
    if not isinstance(value, list):
        raise ProtocolError(f"{place}: an array is expected")
    return value


def _optional_decoder(inner: Decoder) -> Decoder:
    def decode_optional(value: Any, place: str) -> Any:
        return None if value is None else inner(value, place)

    return decode_optional


def _decode_text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise ProtocolError(f"{place}: text is expected")
    return value


def _decode_integer(value: Any, place: str) -> int:
    if type(value) is not int or not -INTEGER_LIMIT <= value < INTEGER_LIMIT:
        raise ProtocolError(f"{place}: an integer of 64 bits is expected")
    return value


def _decode_number(value: Any, place: str) -> float:
    if type(value) not in (int, float) or not abs(value) < INTEGER_LIMIT:
        raise ProtocolError(f"{place}: a number is expected")
    return float(value)


def _decode_flag(value: Any, place: str) -> bool:
    if not isinstance(value, bool):
        raise ProtocolError(f"{place}: true or false is expected")
    return value


def _decode_bytes(value: Any, place: str) -> bytes:
    try:
        return binascii.a2b_base64(_decode_text(value, place).encode("ascii"), strict_mode=True)
    except ValueError as error:
        raise ProtocolError(f"{place}: base64 is expected") from error


_SCALARS: Final[Mapping[Any, Decoder]] = {
    str: _decode_text,
    int: _decode_integer,
    float: _decode_number,
    bool: _decode_flag,
    bytes: _decode_bytes,
}
