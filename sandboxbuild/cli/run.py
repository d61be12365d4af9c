"""`sandboxbuild run`: flags to BuildSettings, one build, its progress on standard error, its ending as an exit code."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from sandboxbuild.cli.flags import TableCommand, ignored_given
from sandboxbuild.cli.main import report
from sandboxbuild.cli.options import RUN_FLAGS
from sandboxbuild.errors import SandboxbuildError

if TYPE_CHECKING:
    from sandboxbuild.protocol.events import Event


@click.command(cls=TableCommand, flags=RUN_FLAGS, foreign=True, short_help="Build an image from a Dockerfile")
@click.argument("path", required=False, metavar="[PATH|URL|-]")
def run(path: str | None, **values: Any) -> int:
    """Build an image from a Dockerfile and the files in PATH.

    The image is kept in the store; -t names it, -d names and pushes it, -o writes it to a file. Without PATH the
    context is --context, or else the working directory.
    """
    from sandboxbuild.cli.render.choice import make_renderer, progress_mode  # late, so that --help is quick
    from sandboxbuild.cli.render.story import Story
    from sandboxbuild.cli.settings import build_settings
    from sandboxbuild.launcher.build import build

    ignored = ignored_given(values)
    settings = build_settings(path, values, os.environ)
    mode = progress_mode(
        values["progress"] or "", quiet=bool(values["quiet"]), is_terminal=sys.stderr.isatty(), environ=os.environ
    )
    if ignored and mode != "quiet":
        sys.stderr.write(f"notice: without effect here: {', '.join(ignored)}\n")
    renderer = make_renderer(mode, sys.stderr, os.environ)
    story = Story()

    def observe(event: Event | None) -> None:
        story.add(event)
        renderer.show(event)

    try:
        outcome = build(settings, observe)
    except SandboxbuildError as error:
        renderer.finish()
        return report(error, step=story.failed_title, tail=story.failed_tail)
    finally:
        renderer.finish()
    if mode == "quiet":
        sys.stdout.write(f"{outcome.image_id}\n")
    elif mode != "rawjson":
        sys.stderr.write(story.summary(outcome.digest, outcome.names, outcome.written))
    return 0
