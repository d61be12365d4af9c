"""[network]: which names a build's steps and fetches may reach. Text that crosses the trust boundary, so pydantic."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from sandboxbuild.policy.isolation import BUILD_BUDGET, STEP_BUDGET, Allow, Budget, NetworkRules, StepRule
from sandboxbuild.policy.names import METADATA_NAMES, pattern_fault
from sandboxbuild.policy.quantities import Count, Duration, Size

DEFAULT_PORTS: Final = (80, 443)
PORTS_LIMIT: Final = 64
ENTRIES_LIMIT: Final = 2000
_ENTRY: Final = re.compile(r"([^:\s]+)(?::([0-9]{1,5}))?", re.ASCII)

# What a range may lie in: addresses that aren't public (policy.addresses says why). A wider one would open others besides.
_OPENABLE: Final = tuple(
    ipaddress.ip_network(text)
    for text in (
        *("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "198.18.0.0/15"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4"),
        *("::1/128", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),
        *("fc00::/7", "fe80::/10", "fec0::/10"),
    )
)


class Section(BaseModel):
    """Unknown keys are errors, and nothing is converted: "80" is no number and 1 is not true."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _check_host(host: str) -> str:
    fault = pattern_fault(host)
    if fault:
        raise ValueError(f"{host!r} is {fault}")
    if host in METADATA_NAMES:
        raise ValueError(f"{host} is a cloud's metadata service, which no policy opens")
    return host


def _check_range(text: str) -> str:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no range of addresses in CIDR notation") from error
    if not any(network.version == one.version and network.subnet_of(one) for one in _OPENABLE):  # type: ignore[arg-type]  # same version
        raise ValueError(f"{text} isn't within one private or reserved range; public addresses need none")
    return text


def _check_no_repeats(values: list[Any]) -> list[Any]:
    repeated = next((value for position, value in enumerate(values) if value in values[:position]), None)
    if repeated is not None:
        raise ValueError(f"{repeated!r} is there twice")
    return values


Host = Annotated[str, AfterValidator(_check_host)]
Port = Annotated[int, Field(ge=1, le=65535)]
Ports = Annotated[list[Port], Field(min_length=1, max_length=PORTS_LIMIT), AfterValidator(_check_no_repeats)]
Ranges = Annotated[list[Annotated[str, AfterValidator(_check_range)]], Field(max_length=256), AfterValidator(_check_no_repeats)]


class AllowTable(Section):
    """{ host = "git.example.com", ports = [22, 443], ranges = ["10.1.0.0/16"], inspect = true }"""

    host: Host
    ports: Ports = list(DEFAULT_PORTS)
    ranges: Ranges = []
    inspect: bool = True

    def value(self) -> Allow:
        text = f"{self.host}:{','.join(map(str, self.ports))}"
        return Allow(self.host, tuple(self.ports), tuple(self.ranges), self.inspect, text)


def _read_entry(value: object) -> object:
    """ "host", "host:port" and "*.example.org" as the tables that they stand for."""
    if not isinstance(value, str):
        return value
    match = _ENTRY.fullmatch(value)
    if match is None:
        raise ValueError(f"{value!r} is no host or host:port")
    host, port = match.groups()
    if port and not 1 <= int(port) <= 65535:
        raise ValueError(f"{value!r} has a port that doesn't exist")
    return {"host": host, **({"ports": [int(port)]} if port else {})}


Entry = Annotated[AllowTable, BeforeValidator(_read_entry)]
Entries = Annotated[list[Entry], Field(max_length=ENTRIES_LIMIT), AfterValidator(_check_no_repeats)]


class Names(Section):
    """[network.run] or [network.fetch]. `any_name` lets through every public name, on `any_name_ports`."""

    allow: Entries = []
    any_name: bool = False
    any_name_ports: Ports = list(DEFAULT_PORTS)

    @model_validator(mode="after")
    def _agrees(self) -> Names:
        if "any_name_ports" in self.model_fields_set and not self.any_name:
            raise ValueError("any_name_ports without any_name = true")
        return self

    def value(self) -> tuple[Allow, ...]:
        anything = (Allow("*", tuple(self.any_name_ports), text="any_name"),) if self.any_name else ()
        return (*(entry.value() for entry in self.allow), *anything)


class Rule(Section):
    """[[network.rule]]: more names for the RUNs of a stage, or whose text fits a pattern."""

    stage: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    run: Annotated[str, Field(min_length=1, max_length=2000)] | None = None
    allow: Entries

    @model_validator(mode="after")
    def _agrees(self) -> Rule:
        if self.stage is None and self.run is None:
            raise ValueError("a rule without stage and run; [network.run] is for all of them")
        if not self.allow:
            raise ValueError("a rule that allows nothing")
        return self

    def value(self) -> StepRule:
        return StepRule(self.stage or "", self.run or "", tuple(entry.value() for entry in self.allow))


class BudgetTable(Section):
    """[network.limits.step] or [network.limits.build]"""

    connections: Count | None = None
    connections_total: Count | None = None
    upload: Size | None = None
    download: Size | None = None
    time: Duration | None = None
    idle: Duration | None = None

    @model_validator(mode="after")
    def _agrees(self) -> BudgetTable:
        if self.connections and self.connections_total and self.connections > self.connections_total:
            raise ValueError("connections is more than connections_total")
        return self

    def value(self, default: Budget) -> Budget:
        return Budget(
            self.connections or default.connections,
            self.connections_total or default.connections_total,
            self.upload or default.upload_bytes,
            self.download or default.download_bytes,
            self.time or default.connected_s,
            self.idle or default.idle_s,
        )


class Budgets(Section):
    """[network.limits]"""

    step: BudgetTable = BudgetTable()
    build: BudgetTable = BudgetTable()

    @model_validator(mode="after")
    def _agrees(self) -> Budgets:
        for name in BudgetTable.model_fields:
            step, build = getattr(self.step, name), getattr(self.build, name)
            if step and build and step > build:
                raise ValueError(f"a step's limit of {name} is larger than the build's")
        return self


class Network(Section):
    """[network]. `mode` none gives steps no network at all, not even names. `proxy` adds HTTP_PROXY and friends to their
    environment: few programs need them (docs/decisions says why they aren't there by themselves)."""

    mode: Literal["gateway", "none"] = "gateway"
    ranges: Ranges = []
    host_network: bool = False
    proxy: bool = False
    run: Names = Names()
    fetch: Names = Names()
    rule: Annotated[list[Rule], Field(max_length=200)] = []
    limits: Budgets = Budgets()

    @model_validator(mode="after")
    def _agrees(self) -> Network:
        named = bool(self.run.allow or self.run.any_name or self.rule)
        if self.mode == "none" and (named or self.host_network):
            raise ValueError('mode = "none" beside names or host_network that steps may reach')
        if self.mode == "none" and self.proxy:
            raise ValueError('mode = "none" beside proxy = true: there would be nothing behind the proxy')
        if self.host_network and named:
            raise ValueError("host_network = true gives steps everything, beside names that they alone may reach")
        if len({port for entry in self.entries() for port in entry.ports}) > PORTS_LIMIT:
            raise ValueError(f"more than {PORTS_LIMIT} different ports for steps")
        return self

    def entries(self) -> tuple[Allow, ...]:
        """All entries that hold for some RUN."""
        return (*self.run.value(), *(entry.value() for rule in self.rule for entry in rule.allow))

    def value(self) -> NetworkRules:
        return NetworkRules(
            run=self.run.value(),
            fetch=self.fetch.value(),
            rules=tuple(rule.value() for rule in self.rule),
            ranges=tuple(self.ranges),
            host_network=self.host_network,
            step_budget=self.limits.step.value(STEP_BUDGET),
            build_budget=self.limits.build.value(BUILD_BUDGET),
        )
