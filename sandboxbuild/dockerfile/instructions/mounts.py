"""RUN --mount: `key=value,...` to a Mount.

Which keys each type takes is in OPTIONS. Source: moby/buildkit frontend/dockerfile/instructions/commands_runmount.go and
dockerfile2llb/convert_runmount.go; a key that BuildKit reads and then ignores is an error here.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from sandboxbuild.dockerfile.gotext import parse_bool, parse_uint
from sandboxbuild.dockerfile.instructions.base import no_nul
from sandboxbuild.dockerfile.instructions.workdir import absolute_path
from sandboxbuild.dockerfile.spans import Fault, did_you_mean
from sandboxbuild.plan.operations import (
    BindMount,
    CacheMount,
    ContextSource,
    FileSource,
    Mount,
    SecretMount,
    SshMount,
    StageSource,
    TmpfsMount,
)

if TYPE_CHECKING:
    from sandboxbuild.dockerfile.scope import Scope

OPTIONS: Final[Mapping[str, frozenset[str]]] = {
    "bind": frozenset(("from", "source", "target", "readonly", "readwrite")),
    "cache": frozenset(("from", "source", "target", "readonly", "readwrite", "id", "sharing", "uid", "gid", "mode")),
    "tmpfs": frozenset(("target", "size", "readwrite")),
    "secret": frozenset(("id", "source", "target", "env", "required", "uid", "gid", "mode", "readonly")),
    "ssh": frozenset(("id", "target", "required", "uid", "gid", "mode", "readonly")),
}
_ALIASES: Final = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly", "rw": "readwrite"}
_KEYS: Final = frozenset(("type",)).union(*OPTIONS.values())
_ALONE: Final = frozenset(("readonly", "readwrite", "required"))
_SIZE: Final = r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?([kKmMgGtTpP]?)(?:[iI]?[bB])?"
_POWERS: Final = " kmgtp"
_VARIABLE: Final = r"\$."


class MountText(NamedTuple):
    """One flag: its fields in order as (key as written, value or None), and what it names with from=."""

    fields: tuple[tuple[str, str | None], ...]
    reference: str = ""


def read_mount(text: str) -> MountText:
    """Raises a Fault for broken quotes and for a variable in from=."""
    fields: list[tuple[str, str | None]] = []
    reference = ""
    for field in split_fields(text):
        key, equals, value = field.partition("=")
        fields.append((key, value if equals else None))
        if key.lower() == "from" and equals:
            if re.search(_VARIABLE, value):
                raise Fault("'from' doesn't support variable expansion, define alias stage instead", at=field)
            reference = value
    return MountText(tuple(fields), reference)


def split_fields(text: str) -> list[str]:
    """One record of comma-separated values, by the rules of RFC 4180 that Go's encoding/csv keeps. Raises a Fault."""
    if not text:
        raise Fault("failed to parse csv mounts: EOF", at="--mount=")
    fields: list[str] = []
    position = 0
    while True:
        if text.startswith('"', position):
            field, position = _quoted_field(text, position + 1)
        else:
            end = text.find(",", position)
            end = len(text) if end < 0 else end
            field, position = text[position:end], end
            if '"' in field:
                raise Fault('failed to parse csv mounts: bare " in non-quoted field', at=field)
        fields.append(field)
        if position >= len(text):
            return fields
        position += 1


def _quoted_field(text: str, start: int) -> tuple[str, int]:
    pieces: list[str] = []
    while True:
        end = text.find('"', start)
        if end < 0:
            raise Fault('failed to parse csv mounts: extraneous or missing " in quoted-field', at=text)
        pieces.append(text[start:end])
        if text.startswith('"', end + 1):
            pieces.append('"')
            start = end + 2
        elif end + 1 == len(text) or text[end + 1] == ",":
            return "".join(pieces), end + 1
        else:
            raise Fault('failed to parse csv mounts: extraneous or missing " in quoted-field', at=text)


def first_names(mount: MountText) -> dict[str, str]:
    """The fields as they are written, variables and all, by their first names; a later one of a name wins."""
    return {_ALIASES.get(key.lower(), key.lower()): value or "" for key, value in mount.fields}


class _Options:
    """The fields of a mount, expanded, by their first names. A later one of a name wins."""

    __slots__ = ("kind", "values")

    def __init__(self, kind: str, values: Mapping[str, str]) -> None:
        self.kind = kind
        self.values = values

    def text(self, key: str) -> str:
        return self.values.get(key, "")

    def flag(self, key: str) -> bool:
        if key not in self.values:
            return False
        value = parse_bool(self.values[key])
        if value is None:
            raise Fault(f"invalid value for {key}: {self.values[key][:100]}", at=self.values[key])
        return value

    def number(self, key: str, default: int, base: int = 10) -> int:
        if key not in self.values:
            return default
        value = parse_uint(self.values[key], base, 32)
        if value is None:
            raise Fault(f"invalid value {self.values[key][:100]} for {key}", at=self.values[key])
        return value

    def mode(self, default: int) -> int:
        mode = self.number("mode", default, base=8)
        if mode > 0o7777:
            raise Fault(f"invalid value {self.text('mode')} for mode", at=self.text("mode"), hint="at most 07777")
        return mode

    def writable(self, default: bool) -> bool:
        """`readonly` and `readwrite`: the one that stands last."""
        for key in reversed(tuple(self.values)):
            if key in ("readonly", "readwrite"):
                return self.flag(key) is (key == "readwrite")
        return default


def _read_options(mount: MountText, scope: Scope) -> _Options:
    values: dict[str, str] = {}
    for written, value in mount.fields:
        key = _ALIASES.get(written.lower(), written.lower())
        if key not in _KEYS:
            known = sorted(_KEYS | set(_ALIASES))
            raise Fault(f"unexpected key {written[:100]!r} in --mount", at=written, hint=did_you_mean(written, known))
        if value is None and key not in _ALONE:
            raise Fault(f"invalid field {written[:100]!r} must be a key=value pair", at=written)
        values.pop(key, None)
        values[key] = "true" if value is None else scope.expand(value)
    kind = values.pop("type", "bind").lower()
    if kind not in OPTIONS:
        raise Fault(f"unsupported mount type {kind[:100]!r}", at=kind, hint=did_you_mean(kind, sorted(OPTIONS)))
    for key in values:
        if key not in OPTIONS[kind]:
            raise Fault(
                f"{key} not allowed for {kind!r} type mounts", at=key, hint=f"it takes {', '.join(sorted(OPTIONS[kind]))}"
            )
    no_nul(tuple(values.values()), "a mount")
    return _Options(kind, values)


def lower_mount(mount: MountText, scope: Scope, ssh_count: int) -> Mount:
    """Raises a Fault. `ssh_count` are the ssh mounts before this one: each socket has a name of its own."""
    options = _read_options(mount, scope)
    if options.kind == "bind":
        return _bind(options, mount, scope)
    if options.kind == "cache":
        return _cache(options, mount, scope)
    if options.kind == "tmpfs":
        return TmpfsMount(_target(options, scope), _size_bytes(options.text("size")))
    if options.kind == "secret":
        return _secret(options)
    target = options.text("target") or f"/run/buildkit/ssh_agent.{ssh_count}"
    owner = options.number("uid", 0), options.number("gid", 0), options.mode(0o600)
    return SshMount(options.text("id") or "default", absolute_path("/", target), options.flag("required"), *owner)


def _bind(options: _Options, mount: MountText, scope: Scope) -> BindMount:
    source = _source(mount, scope) or ContextSource()
    return BindMount(
        _target(options, scope), source, absolute_path("/", options.text("source")), options.writable(default=False)
    )


def _cache(options: _Options, mount: MountText, scope: Scope) -> CacheMount:
    sharing = options.text("sharing").lower() or "shared"
    if sharing not in ("shared", "private", "locked"):
        raise Fault(f"unsupported sharing value {sharing[:100]!r}", at=sharing, hint="it is shared, private or locked")
    target = _target(options, scope)
    return CacheMount(
        target,
        options.text("id") or posixpath.normpath(options.text("target") or "."),
        sharing,
        not options.writable(default=True),
        _seed(mount, scope),
        absolute_path("/", options.text("source")),
        options.number("uid", 0),
        options.number("gid", 0),
        options.mode(0o755),
    )


def _secret(options: _Options) -> SecretMount:
    target, given, source = options.text("target"), options.text("id"), options.text("source")
    if source and given:
        raise Fault("both source and id can't be set", at="source")
    secret_id = given or source or posixpath.basename(absolute_path("/", target))
    if not secret_id:
        raise Fault("invalid secret mount. one of source, target required", hint="write --mount=type=secret,id=NAME")
    env = options.text("env")
    if "env" in options.values and (not env or "=" in env):
        raise Fault(f"{env[:100]!r} can't be a variable's name", at="env")
    if not target and not env:
        target = f"/run/secrets/{posixpath.basename(secret_id)}"
    owner = options.number("uid", 0), options.number("gid", 0), options.mode(0o400)
    return SecretMount(secret_id, absolute_path("/", target) if target else "", env, options.flag("required"), *owner)


def _source(mount: MountText, scope: Scope) -> FileSource | None:
    return scope.find_source(mount.reference, numbers=False) if mount.reference else None


def _seed(mount: MountText, scope: Scope) -> FileSource | None:
    """What an empty cache begins with; scratch is nothing."""
    return None if mount.reference.lower() == "scratch" else _source(mount, scope)


def _target(options: _Options, scope: Scope) -> str:
    target = absolute_path(scope.workdir, options.text("target"))
    if target == "/":
        raise Fault('invalid mount target "/"', hint="add target=PATH to the mount")
    return target


def _size_bytes(text: str) -> int:
    """docker/go-units RAMInBytes: 64m, 1.5GiB, 1024."""
    if not text:
        return 0
    match = re.fullmatch(_SIZE, text)
    if match is None:
        raise Fault(f"invalid value for size: {text[:100]}", at=text, hint="a number and k, m or g")
    return int(float(match.group(1)) * 1024.0 ** _POWERS.index(match.group(2).lower() or " "))


def stages_of(mounts: tuple[Mount, ...]) -> tuple[int, ...]:
    """The stages that the mounts read."""
    sources = (mount.source for mount in mounts if isinstance(mount, BindMount | CacheMount))
    return tuple(dict.fromkeys(source.stage for source in sources if isinstance(source, StageSource)))
