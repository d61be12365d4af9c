"""`sandboxbuild check`: what BuildKit's build checks say of a Dockerfile, by pure code; nothing is built or fetched."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, Final

import click

from sandboxbuild.cli.flags import TableCommand
from sandboxbuild.cli.images import FORMAT_FLAG, write_json
from sandboxbuild.cli.options import BUILD_FLAGS, Flag, Kind
from sandboxbuild.errors import DockerfileError, Span

_WANTED: Final = frozenset(
    {"--context", "--context-sub-path", "--file", "--target", "--build-arg", "--build-context", "--platform"}
)
FAIL_ON_FLAG: Final = Flag(
    "--fail-on", Kind.TEXT, "What makes the exit code 3", choices=("error", "warning"), group="Options", default="error"
)
CHECK_FLAGS: Final = (*(flag for flag in BUILD_FLAGS if flag.name in _WANTED), FAIL_ON_FLAG, FORMAT_FLAG)
FAILED: Final = DockerfileError.exit_code


@click.command(cls=TableCommand, flags=CHECK_FLAGS)
@click.argument("path", required=False, metavar="[PATH|-]")
def check(path: str | None, **values: Any) -> int:
    """Check a Dockerfile: its errors, and warnings by the rules of BuildKit's build checks.

    All stages are read unless there is a target. Warnings end with exit code 0, unless --fail-on=warning or the file's own
    `# check=error=true` says otherwise.
    """
    from sandboxbuild.cli.settings import plan_settings
    from sandboxbuild.errors import ContextError
    from sandboxbuild.launcher.sources import find_sources, ignore_rules

    settings = plan_settings(path, {"label": (), "source_date_epoch": None, "store": None} | values, os.environ)
    sources = find_sources(settings, sys.stdin.buffer)
    if sources.dockerfile is None:
        raise ContextError("the Dockerfile is in a context that is not here", hint="fetch it, or give the Dockerfile with -f")
    try:
        ignore = ignore_rules(sources)
        warnings, is_strict = find_warnings(sources.dockerfile, sources.dockerfile_name, settings, ignore)
    except DockerfileError as error:
        if values["format"] != "json":
            raise
        write_json({"warnings": [], "error": error_document(error)})
        return FAILED
    if values["format"] == "json":
        write_json({"warnings": [warning_document(span, message) for span, message in warnings], "error": None})
    else:
        sys.stdout.write(report_text(warnings, sources.dockerfile))
    return FAILED if warnings and (is_strict or values["fail_on"] == "warning") else 0


def find_warnings(text: bytes, name: str, settings: Any, ignore: Any) -> tuple[Sequence[tuple[Span, str]], bool]:
    """(the warnings of all platforms, whether the file says that they are errors). Raises DockerfileError."""
    from sandboxbuild.dockerfile import check as check_dockerfile
    from sandboxbuild.dockerfile import parse
    from sandboxbuild.dockerfile.checks import parse_options
    from sandboxbuild.launcher.planning import lower_options
    from sandboxbuild.oci.platform import host_platform

    system = os.uname()
    build_platform = str(host_platform(system.sysname, system.machine))
    parsed = parse(text, name)
    found: set[tuple[Span, str]] = set()
    for platform in settings.platforms or ("",):
        found.update(check_dockerfile(parsed, lower_options(settings, platform, build_platform, ignore)))
    return sorted(found), parse_options(parsed.directives.check).error


def report_text(warnings: Sequence[tuple[Span, str]], text: bytes) -> str:
    """For people: each warning with its lines and a caret, and a count."""
    from sandboxbuild.cli.render.failure import excerpt
    from sandboxbuild.cli.render.text import disarm, safe_words

    source = text.decode("utf-8", "replace").removeprefix("\ufeff").split("\n")
    lines = []
    for span, message in warnings:
        shown = "\n".join(line.rstrip("\r") for line in source[span.line - 1 : span.end_line])
        lines += [f"WARNING: {safe_words(message)}", *excerpt(span, shown), ""]
    count = len(warnings)
    lines.append(f"{count} warning{'' if count == 1 else 's'}" if count else "no warnings")
    return "".join(disarm(line) + "\n" for line in lines)


def warning_document(span: Span, message: str) -> dict[str, Any]:
    rule, _, text = message.partition(": ")
    return {"rule": rule, "message": text, "source": span._asdict()}


def error_document(error: DockerfileError) -> dict[str, Any]:
    return {"message": error.message, "hint": error.hint, "source": error.span._asdict() if error.span else None}
