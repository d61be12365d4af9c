"""[capabilities]: what of root's power a step has: of Docker's fourteen, all but three, which must be asked for."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator, model_validator

from sandboxbuild.policy.isolation import StepIsolation
from sandboxbuild.policy.network import Section

DEFAULT: Final = StepIsolation._field_defaults["capabilities"]
EXTRA: Final = ("NET_RAW", "AUDIT_WRITE", "MKNOD")
GRANTABLE: Final = (*DEFAULT, *EXTRA)


def _check_name(name: str) -> str:
    bare = name.removeprefix("CAP_")
    if bare not in GRANTABLE:
        raise ValueError(f"{name!r} is no capability that a step can be given; there are {', '.join(GRANTABLE)}")
    return bare


def _check_dropped(name: str) -> str:
    return name if name == "ALL" else _check_name(name)


class Capabilities(Section):
    """`drop` is applied to the default first ("ALL": nothing stays), then `add`."""

    add: list[Annotated[str, AfterValidator(_check_name)]] = []
    drop: list[Annotated[str, AfterValidator(_check_dropped)]] = []

    @model_validator(mode="after")
    def _agrees(self) -> Capabilities:
        both = set(self.add) & set(self.drop)
        if both:
            raise ValueError(f"{min(both)} is added and dropped")
        for names in (self.add, self.drop):
            if len(set(names)) != len(names):
                raise ValueError("a capability is there twice")
        return self

    def value(self) -> tuple[str, ...]:
        dropped = set(DEFAULT) if "ALL" in self.drop else set(self.drop)
        kept = (set(DEFAULT) - dropped) | set(self.add)
        return tuple(name for name in GRANTABLE if name in kept)
