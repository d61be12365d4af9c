"""Whether this host can run what a plan wants to run: a RUN of a foreign platform is refused before anything is begun. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from sandboxbuild.errors import DockerfileError
from sandboxbuild.oci.platform import matches, parse_platform
from sandboxbuild.plan.operations import RunOp
from sandboxbuild.plan.steps import BuildPlan, Stage


def check_runnable(plan: BuildPlan, build_platform: str, emulated: Sequence[str]) -> None:
    """`emulated` are the architectures that the host has interpreters for. Raises DockerfileError at the first RUN."""
    for stage in plan.stages:
        step = next((step for step in stage.steps if isinstance(step.op, RunOp)), None)
        if step is not None and not runs_here(stage, build_platform, emulated):
            architecture = parse_platform(stage.platform).architecture
            raise DockerfileError(
                f"a step of {stage.platform} can't run here: this host is {build_platform}, "
                f"and binfmt_misc has no interpreter for {architecture}",
                span=step.span,
                hint="register one with the flag F on the host, or build this stage FROM --platform=$BUILDPLATFORM",
            )


def runs_here(stage: Stage, build_platform: str, emulated: Sequence[str]) -> bool:
    """A base that doesn't have the platform that it was asked for counts as well: BuildKit only warns of one."""
    config = stage.base_config
    base_platform = "/".join(filter(None, (config.os, config.architecture, config.variant)))
    return any(
        matches(platform, build_platform) or parse_platform(platform).architecture in emulated
        for platform in (stage.platform, base_platform)
    )
