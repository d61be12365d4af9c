"""HEALTHCHECK."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sandboxbuild.dockerfile.gotext import format_duration, parse_duration_ns, parse_uint, plain_list
from sandboxbuild.dockerfile.instructions.base import TEXT, Flag, Lowered, Raw, at_least_one, read_flags
from sandboxbuild.dockerfile.spans import Fault
from sandboxbuild.oci.config import Healthcheck

if TYPE_CHECKING:
    from sandboxbuild.dockerfile.scope import Scope

FLAGS: Final = (
    Flag("interval", TEXT, "Time between two checks."),
    Flag("timeout", TEXT, "Time after which a check has failed."),
    Flag("start-period", TEXT, "Time in which failures don't count."),
    Flag("start-interval", TEXT, "Time between two checks in the start period."),
    Flag("retries", TEXT, "How many failures in a row make it unhealthy."),
)
_SHORTEST_NS: Final = 1_000_000


class Check(NamedTuple):
    raw: Raw
    healthcheck: Healthcheck
    references: tuple[str, ...] = ()

    def lower(self, scope: Scope) -> Lowered:
        scope.lint.used_once("HEALTHCHECK", scope.once, self.raw.place)
        check = self.healthcheck
        scope.config = scope.config._replace(healthcheck=check)
        shown = (
            f"Test:{plain_list(check.test)}",
            f"Interval:{format_duration(check.interval_ns)}",
            f"Timeout:{format_duration(check.timeout_ns)}",
            f"StartPeriod:{format_duration(check.start_period_ns)}",
            f"StartInterval:{format_duration(check.start_interval_ns)}",
            f"Retries:{check.retries}",
        )
        return Lowered(f"HEALTHCHECK {{{' '.join(shown)}}}")


def parse_healthcheck(raw: Raw) -> Check:
    at_least_one(raw)
    kind, command = raw.words[0].upper(), raw.words[1:]
    flags = read_flags(raw, FLAGS)
    if kind == "NONE":
        if command:
            raise Fault("HEALTHCHECK NONE takes no arguments")
        return Check(raw, Healthcheck(test=("NONE",)))
    if kind != "CMD":
        raise Fault(f'Unknown type "{kind[:100]}" in HEALTHCHECK (try CMD)', at=raw.words[0])
    if not command:
        raise Fault("Missing command after HEALTHCHECK CMD")
    test = ("CMD", *command) if raw.arguments.is_json else ("CMD-SHELL", *command)
    return Check(
        raw,
        Healthcheck(
            test=test,
            interval_ns=_duration_ns("interval", flags.text("interval")),
            timeout_ns=_duration_ns("timeout", flags.text("timeout")),
            start_period_ns=_duration_ns("start-period", flags.text("start-period")),
            start_interval_ns=_duration_ns("start-interval", flags.text("start-interval")),
            retries=_retries(flags.text("retries")),
        ),
    )


def _duration_ns(name: str, text: str) -> int:
    """0 stands for the default."""
    value = parse_duration_ns(text) if text else 0
    if value and value < _SHORTEST_NS:
        raise Fault(f"Interval {name!r} cannot be less than 1ms", at=text)
    return value


def _retries(text: str) -> int:
    value = parse_uint(text.removeprefix("+"), 10, 31) if text else 0
    if value is None:
        raise Fault(f"--retries is no number from 0: {text[:100]!r}", at=text)
    return value
