"""[limits]: what a step and a build may use."""

from __future__ import annotations

from pydantic import model_validator

from sandboxbuild.policy.network import Section
from sandboxbuild.policy.quantities import Count, Duration, Processors, Size


class Limits(Section):
    """Absent keys are no limit. memory, pids, cpu and build_timeout are for the whole build, the others for each step."""

    memory: Size | None = None
    pids: Count | None = None
    cpu: Processors | None = None
    cpu_time: Duration | None = None
    disk: Size | None = None
    inodes: Count | None = None
    output: Size | None = None
    open_files: Count | None = None
    step_timeout: Duration | None = None
    build_timeout: Duration | None = None

    @model_validator(mode="after")
    def _agrees(self) -> Limits:
        if self.step_timeout and self.build_timeout and self.step_timeout > self.build_timeout:
            raise ValueError("step_timeout is longer than build_timeout")
        return self

    def asked(self) -> tuple[str, ...]:
        """The names of the limits that are set: each must be enforced by the runtime."""
        return tuple(name for name in type(self).model_fields if getattr(self, name) is not None)
