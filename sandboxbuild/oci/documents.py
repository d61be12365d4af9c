"""JSON from strangers: bounded, without duplicate keys, read field by field; and the one way in which we write JSON.

Raises RegistryError, for such documents come from registries, layouts and stores.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from sandboxbuild.errors import RegistryError

MAX_DOCUMENT_BYTES: Final = 4 * 1024 * 1024  # what registries accept as a manifest (distribution-spec, pushing manifests)
MAX_DEPTH: Final = 32
_LARGEST: Final = 2**63 - 1
_SUSPICIOUS: Final = re.compile(rb"\\u(?:[dD][89a-fA-F]|0000)")


class Fields:
    """One JSON object, asked for its fields by type. `what` names it in errors. null and absent are the same, as in Go."""

    __slots__ = ("_values", "what")

    def __init__(self, values: Mapping[str, Any], what: str) -> None:
        self._values = values
        self.what = what

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def text(self, key: str, default: str = "") -> str:
        value = self._values.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.error(key, "is not text")
        return value

    def integer(self, key: str, default: int = 0) -> int:
        """A number from 0 to 2^63 - 1."""
        value = self._values.get(key)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST:
            raise self.error(key, "is not a count")
        return value

    def flag(self, key: str) -> bool:
        value = self._values.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.error(key, "is not true or false")
        return bool(value)

    def texts(self, key: str, limit: int = 65_536) -> tuple[str, ...] | None:
        """An array of strings; None where it is absent."""
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(key, "is not a list of texts")
        self._bounded(key, value, limit)
        return tuple(value)

    def text_map(self, key: str) -> tuple[tuple[str, str], ...]:
        """An object of strings as sorted pairs; a null value is "", as Go reads it."""
        value = self._values.get(key)
        if value is None:
            return ()
        if not isinstance(value, dict) or not all(item is None or isinstance(item, str) for item in value.values()):
            raise self.error(key, "is not an object of texts")
        return tuple(sorted((name, item or "") for name, item in value.items()))

    def names(self, key: str) -> tuple[str, ...]:
        """The sorted keys of an object whose values say nothing (Go's map[string]struct{})."""
        value = self._values.get(key)
        if value is None:
            return ()
        if not isinstance(value, dict) or not all(item is None or isinstance(item, dict) for item in value.values()):
            raise self.error(key, "is not an object of empty objects")
        return tuple(sorted(value))

    def object(self, key: str) -> Fields | None:
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(key, "is not an object")
        return Fields(value, f"{self.what}.{key}")

    def objects(self, key: str, limit: int) -> tuple[Fields, ...]:
        value = self._values.get(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.error(key, "is not a list of objects")
        self._bounded(key, value, limit)
        return tuple(Fields(item, f"{self.what}.{key}[{number}]") for number, item in enumerate(value))

    def unknown(self, known: frozenset[str]) -> dict[str, Any]:
        """The fields that are not in `known`, for `extra`.

        Refuses a field that is a known one in other letters: Go's decoder would take it for the known one, so two readers
        could see two documents.
        """
        rest = {key: value for key, value in self._values.items() if key not in known}
        folded = {key.casefold() for key in known} if rest else set()
        for key in rest:
            if key.casefold() in folded:
                raise self.error(key, "is a known field in other letters")
        return rest

    def error(self, key: str, problem: str) -> RegistryError:
        return RegistryError(f"{self.what}: field {key!r} {problem}")

    def _bounded(self, key: str, value: list[Any], limit: int) -> None:
        if len(value) > limit:
            raise self.error(key, f"has {len(value)} items, more than {limit}")


def parse_document(data: bytes, what: str, max_bytes: int = MAX_DOCUMENT_BYTES, max_depth: int = MAX_DEPTH) -> Fields:
    """The JSON object in `data`: UTF-8, no duplicate key, no NaN, no NUL and no half surrogate in any text."""
    if len(data) > max_bytes:
        raise RegistryError(f"{what} has {len(data)} bytes, more than {max_bytes}")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique_keys, parse_constant=_refused, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise RegistryError(f"{what} is not valid JSON: {_reason(error)}") from error
    if not isinstance(value, dict):
        raise RegistryError(f"{what} is not a JSON object")
    _check_depth(value, what, max_depth)
    if _SUSPICIOUS.search(data) is not None:
        _check_texts(value, what)
    return Fields(value, what)


def encode_document(value: Mapping[str, Any]) -> bytes:
    """Compact UTF-8 JSON with sorted keys: equal values give equal bytes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False).encode()


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key appears twice in one object")
    return result


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError("a number is too large")
    return value


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    return str(error)[:200]


def _check_depth(value: Any, what: str, max_depth: int) -> None:
    level = [value]
    for _ in range(max_depth):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return
    raise RegistryError(f"{what} is nested more than {max_depth} deep")


def _children(value: Any) -> list[Any]:
    items = value.values() if isinstance(value, dict) else value
    return [item for item in items if isinstance(item, (dict, list))]


def _check_texts(value: Any, what: str) -> None:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            pending.extend(item.keys())
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, str) and ("\0" in item or any("\ud800" <= char <= "\udfff" for char in item)):
            raise RegistryError(f"{what} has a text with a NUL or half a surrogate pair")
