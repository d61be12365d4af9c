"""`sandboxbuild plan`: the stages and steps that a Dockerfile comes to, by pure code; no root, no sandbox, no network."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import click

from sandboxbuild.cli.flags import TableCommand
from sandboxbuild.cli.images import FORMAT_FLAG, STORE_FLAG, write_json
from sandboxbuild.cli.options import BUILD_FLAGS
from sandboxbuild.errors import SandboxbuildError, Span

if TYPE_CHECKING:
    from sandboxbuild.launcher.settings import BuildSettings
    from sandboxbuild.oci.config import ImageConfig
    from sandboxbuild.plan.steps import Base, BaseImage, BuildPlan, Stage, Step

_WANTED: Final = frozenset(
    {
        *("--context", "--context-sub-path", "--file", "--target", "--build-arg", "--build-context", "--label"),
        *("--platform", "--source-date-epoch"),
    }
)
PLAN_FLAGS: Final = (*(flag for flag in BUILD_FLAGS if flag.name in _WANTED), STORE_FLAG, FORMAT_FLAG)


@click.command(cls=TableCommand, flags=PLAN_FLAGS)
@click.argument("path", required=False, metavar="[PATH|-]")
def plan(path: str | None, **values: Any) -> None:
    """Show the stages and steps that a Dockerfile comes to, without building anything.

    Base images are looked up in the store only: what a base that isn't there sets, the plan doesn't know.
    """
    from sandboxbuild.cli.settings import plan_settings
    from sandboxbuild.dockerfile import lower, parse
    from sandboxbuild.errors import ContextError
    from sandboxbuild.launcher.planning import lower_options
    from sandboxbuild.launcher.sources import find_sources
    from sandboxbuild.oci.platform import host_platform

    settings = plan_settings(path, values, os.environ)
    sources = find_sources(settings, sys.stdin.buffer)
    if sources.dockerfile is None:
        raise ContextError("the Dockerfile is in a context that is not here", hint="fetch it, or give the Dockerfile with -f")
    system = os.uname()
    build_platform = str(host_platform(system.sysname, system.machine))
    parsed = parse(sources.dockerfile, sources.dockerfile_name)
    unknown: list[str] = []
    plans = []
    for platform in settings.platforms or ("",):
        options = lower_options(settings, platform, build_platform)
        plans.append(lower(parsed, options, _resolver(settings, platform or build_platform, unknown)))
    if values["format"] == "json":
        documents = [plan_document(each) for each in plans]
        write_json(documents[0] if len(documents) == 1 else documents)
        return
    for each in plans:
        sys.stdout.write(plan_text(each))
    for reference in dict.fromkeys(unknown):
        sys.stderr.write(f"note: {reference} is not in the store, so what it sets is not shown\n")


def _resolver(settings: BuildSettings, platform: str, unknown: list[str]) -> Callable[[BaseImage], ImageConfig]:
    """The configs of base images, from the store where they are there; else empty ones, and the name goes to `unknown`."""
    from sandboxbuild.launcher.stores import store_path
    from sandboxbuild.oci.config import ImageConfig
    from sandboxbuild.oci.platform import parse_platform
    from sandboxbuild.store import Store

    def resolve(base: BaseImage) -> ImageConfig:
        wanted = parse_platform(base.platform or platform)
        path = store_path(settings.store, os.environ, is_root=os.geteuid() == 0)
        if os.path.isdir(path):
            with Store(path, create=False) as store:
                found = _stored_config(store, base.reference)
            if found is not None:
                return found
        unknown.append(base.reference)
        return ImageConfig(os=wanted.os, architecture=wanted.architecture, variant=wanted.variant)

    return resolve


def _stored_config(store: Any, reference: str) -> ImageConfig | None:
    from sandboxbuild.cli.images import first_manifest

    try:
        image = store.images.find(reference)
        return first_manifest(store, image)[1] if image is not None else None
    except SandboxbuildError:
        return None


def plan_text(plan: BuildPlan) -> str:
    """For people: a block for each stage, a line for each step."""
    from sandboxbuild.cli.render.text import safe_words

    lines = []
    for stage in plan.stages:
        name = f" {safe_words(stage.name)}" if stage.name else ""
        mark = "  (result)" if stage.number == plan.target else ""
        lines.append(f"stage {stage.number}{name}: from {safe_words(_base_text(stage.base))}{mark}")
        lines += [f"  {_step_kind(step):>8}  {safe_words(step.text)}{_needs(step)}" for step in stage.steps]
    lines += [f"warning: {safe_words(span.file)}:{span.line}: {safe_words(message)}" for span, message in plan.warnings]
    return "".join(line + "\n" for line in lines)


def _base_text(base: Base) -> str:
    from sandboxbuild.plan.steps import BaseImage, BaseStage

    if isinstance(base, BaseImage):
        return f"{base.reference} ({base.platform})" if base.platform else base.reference
    return f"stage {base.stage}" if isinstance(base, BaseStage) else "scratch"


def _step_kind(step: Step) -> str:
    """What the step does: makes a layer by running or copying, or only sets something."""
    return {"RunOp": "run", "CopyOp": "copy", "WorkdirOp": "folder", "NoneType": "set"}[type(step.op).__name__]


def _needs(step: Step) -> str:
    return f"  (needs stage {', '.join(map(str, step.depends_on))})" if step.depends_on else ""


def plan_document(plan: BuildPlan) -> dict[str, Any]:
    """For programs. Operations carry their `type`; bytes are text with replacement characters."""
    return {
        "target": plan.target,
        "stages": [_stage_document(stage) for stage in plan.stages],
        "warnings": [{"source": _span_document(span), "message": message} for span, message in plan.warnings],
    }


def _stage_document(stage: Stage) -> dict[str, Any]:
    return {
        "number": stage.number,
        "name": stage.name,
        "platform": stage.platform,
        "base": _plain(stage.base),
        "source": _span_document(stage.span),
        "steps": [_step_document(step) for step in stage.steps],
        "config": _plain(stage.config._replace(history=(), diff_ids=())),
    }


def _step_document(step: Step) -> dict[str, Any]:
    return {
        "text": step.text,
        "source": _span_document(step.span),
        "operation": _plain(step.op),
        "depends_on": list(step.depends_on),
        "created_by": step.created_by,
    }


def _span_document(span: Span) -> dict[str, Any]:
    return {"file": span.file, "line": span.line, "end_line": span.end_line}


def _plain(value: Any) -> Any:
    if hasattr(value, "_fields"):
        return {"type": type(value).__name__} | {name: _plain(part) for name, part in zip(value._fields, value, strict=True)}
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return value
