"""Which renderer a build gets, from the flag, the environment and what standard error is. Pure but for the constructors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TextIO

from sandboxbuild.cli.render import Renderer

CI_VARIABLES: Final = ("CI", "GITHUB_ACTIONS", "GITLAB_CI", "TF_BUILD", "JENKINS_URL", "TEAMCITY_VERSION")
PROGRESS_VARIABLES: Final = ("SANDBOXBUILD_PROGRESS", "BUILDKIT_PROGRESS")


def progress_mode(asked: str, *, quiet: bool, is_terminal: bool, environ: Mapping[str, str]) -> str:
    """tty, plain, rawjson or quiet."""
    if quiet:
        return "quiet"
    mode = asked or next((environ[name] for name in PROGRESS_VARIABLES if environ.get(name)), "auto")
    if mode == "none":
        return "quiet"
    if mode in ("plain", "rawjson", "quiet"):
        return mode
    if mode == "auto" and any(environ.get(name) for name in CI_VARIABLES):
        return "plain"
    return "tty" if is_terminal and environ.get("TERM", "") != "dumb" else "plain"


def make_renderer(mode: str, stream: TextIO, environ: Mapping[str, str]) -> Renderer:
    if mode == "tty":
        from sandboxbuild.cli.render.tty import OUTPUT_LINES, TtyRenderer

        lines = environ.get("BUILDKIT_TTY_LOG_LINES", "")
        shown = int(lines) if lines.isascii() and lines.isdigit() and len(lines) < 4 else OUTPUT_LINES
        return TtyRenderer(stream, colour="NO_COLOR" not in environ, output_lines=shown)
    if mode == "rawjson":
        from sandboxbuild.cli.render.rawjson import RawJsonRenderer

        return RawJsonRenderer(stream)
    if mode == "quiet":
        from sandboxbuild.cli.render.quiet import QuietRenderer

        return QuietRenderer()
    from sandboxbuild.cli.render.plain import PlainRenderer

    return PlainRenderer(stream, github=environ.get("GITHUB_ACTIONS", "") == "true")
