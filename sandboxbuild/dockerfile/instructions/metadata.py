"""VOLUME, USER and STOPSIGNAL: they change the config and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sandboxbuild.dockerfile.gotext import plain_list
from sandboxbuild.dockerfile.instructions.base import Lowered, Raw, at_least_one, exactly_one, no_nul, read_flags
from sandboxbuild.dockerfile.spans import Fault
from sandboxbuild.dockerfile.words import SPACE

if TYPE_CHECKING:
    from sandboxbuild.dockerfile.scope import Scope

_SIGNALS: Final = frozenset(
    ("ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL", "PROF")
    + ("PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1", "USR2")
    + ("VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX")
    + tuple(f"RTMIN+{number}" for number in range(1, 16))
    + tuple(f"RTMAX-{number}" for number in range(1, 15))
)


class Volume(NamedTuple):
    raw: Raw
    paths: tuple[str, ...]
    references: tuple[str, ...] = ()

    def lower(self, scope: Scope) -> Lowered:
        paths = tuple(scope.expand(path) for path in self.paths)
        if "" in paths:
            raise Fault("VOLUME specified can not be an empty string")
        scope.config = scope.config._replace(volumes=tuple(dict.fromkeys((*scope.config.volumes, *paths))))
        return Lowered(f"VOLUME {plain_list(paths)}")


class User(NamedTuple):
    raw: Raw
    user: str
    references: tuple[str, ...] = ()

    def lower(self, scope: Scope) -> Lowered:
        user = scope.expand(self.user)
        no_nul((user,), "USER")
        scope.config = scope.config._replace(user=user)
        return Lowered(f"USER {user}")


class StopSignal(NamedTuple):
    raw: Raw
    signal: str
    references: tuple[str, ...] = ()

    def lower(self, scope: Scope) -> Lowered:
        signal = scope.expand(self.signal)
        if not is_signal(signal):
            raise Fault(f"invalid signal: {signal[:100]}", at=self.signal, hint="a number, or a name such as SIGTERM")
        scope.config = scope.config._replace(stop_signal=signal)
        return Lowered(f"STOPSIGNAL {signal}")


def is_signal(text: str) -> bool:
    """A number but 0, or a name in any case, with SIG or without (moby/sys signal.ParseSignal)."""
    number = text[1:] if text[:1] in ("-", "+") else text
    if number.isascii() and number.isdecimal():
        return number.strip("0") != ""
    return text.upper().removeprefix("SIG") in _SIGNALS


def parse_volume(raw: Raw) -> Volume:
    at_least_one(raw)
    read_flags(raw)
    paths = tuple(path.strip(SPACE) for path in raw.words)
    if "" in paths:
        raise Fault("VOLUME specified can not be an empty string")
    return Volume(raw, paths)


def parse_user(raw: Raw) -> User:
    user = exactly_one(raw)
    read_flags(raw)
    return User(raw, user)


def parse_stopsignal(raw: Raw) -> StopSignal:
    signal = exactly_one(raw)
    read_flags(raw)
    return StopSignal(raw, signal)
