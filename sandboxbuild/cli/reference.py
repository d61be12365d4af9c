"""docs/cli.md, made from the table of flags and the commands: `python -m sandboxbuild.cli.reference > docs/cli.md`."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterable, Sequence

import click

from sandboxbuild.cli.flags import TableCommand
from sandboxbuild.cli.main import ALIASES, COMMANDS
from sandboxbuild.cli.options import FALSE_ONLY_FLAGS, IGNORED_FLAGS, REFUSED_FLAGS, Flag, Kind

INTRODUCTION = """# Command line

Made from the tables in `sandboxbuild/cli/options.py` by `python -m sandboxbuild.cli.reference`; a test compares the two.

Names follow `docker buildx build`; kaniko's and buildah's names for the same thing work too. A switch takes a value by `=`
alone (`--push=false`), and the values are those of Go's parsers: 1, t, true, 0, f, false and their capitals. `-d=x`, `-dx`
and `-d x` are equal. Every flag can be given as a variable: `SANDBOXBUILD_` and its name in capitals; a list has one item on
each line. An unknown flag is an error that names the nearest one.
"""

EXIT_CODES = """## Exit codes

| code | meaning |
|---|---|
| 0 | success |
| 1 | a step failed; its own status is shown and is in the metadata file |
| 2 | the command line is wrong |
| 3 | a bad Dockerfile or context, or an image that is not there |
| 4 | a policy refuses it, or the runtime can't enforce the policy |
| 5 | a registry or the network failed |
| 6 | the isolation can't be had on this host; `sandboxbuild doctor` says why |
| 100 | a bug of ours, or an executor that broke the protocol or was killed |
| 102 | a limit was passed: disk, memory, output, size |
| 124 | `--timeout` was reached |
| 130, 143 | ended by SIGINT or SIGTERM |
"""

FILES = """## Files that a build writes

- `--iidfile`: the digest of the image's configuration, or of the index where there are several platforms. Removed when a build
  starts, written when it has succeeded.
- `--digest-file`: the digest of the manifest or index, 71 bytes, no newline. A device such as `/dev/termination-log` is written
  into, not replaced.
- `--image-name-with-digest-file`, `--image-name-tag-with-digest-file`: a line `NAME@DIGEST` or `NAME:TAG@DIGEST` for each name.
- `--metadata-file`: one JSON object, also for a build that failed: `containerimage.digest`, `containerimage.config.digest`,
  `containerimage.descriptor`, `image.name`, `buildx.build.ref`, and `sandboxbuild.profile`, `.bases` (what each base image was
  resolved to), `.steps` (name, cached, status, duration), `.pushes`, `.warnings`, `.error` (type, message, exit code, the
  failed step's own `status`, place in the Dockerfile).

## Progress

Progress goes to standard error; standard output is for `-o dest=-` and for the image's id with `--quiet`. `auto` is `tty` on a
terminal and `plain` elsewhere and in CI. What steps print is shown with control characters, escapes and bidirectional overrides
replaced. On GitHub Actions it stands between `::stop-commands::` marks with a random token; everywhere in `plain` a zero-width
space takes the meaning out of `##vso[`, `##[`, `##teamcity[` and `section_start:`.
"""


def reference() -> str:
    parts = [INTRODUCTION]
    aliases = {target: name for name, target in ALIASES.items()}
    for name, (module, function, _) in COMMANDS.items():
        command: click.Command = getattr(importlib.import_module(f"sandboxbuild.cli.{module}"), function)
        parts.append(_command_text(name, command, aliases.get(name, "")))
    parts += [EXIT_CODES, FILES]
    return "\n".join(parts)


def _command_text(name: str, command: click.Command, alias: str) -> str:
    context = click.Context(command, info_name=name)
    usage = " ".join(["sandboxbuild", name, *command.collect_usage_pieces(context)])
    also = f" `{alias}` is the same command." if alias else ""
    lines = [f"## {name}", "", f"`{usage}`", "", inspect.cleandoc(command.help or "") + also, ""]
    if isinstance(command, TableCommand):
        lines += _flag_lines(command.flags)
        if command.refused:
            lines += _foreign_lines()
    return "\n".join(lines)


def _flag_lines(flags: Sequence[Flag]) -> list[str]:
    lines: list[str] = []
    for group in dict.fromkeys(flag.group for flag in flags):
        lines += ["| flag | meaning |" if group == "Options" else f"| {group} | meaning |", "|---|---|"]
        lines += [f"| {_names(flag)} | {_meaning(flag)} |" for flag in flags if flag.group == group and not flag.hidden]
        lines.append("")
    return lines


def _names(flag: Flag) -> str:
    value = flag.metavar or "\\|".join(flag.choices)
    value = value.replace("|", "\\|").replace("\\\\|", "\\|")
    spellings = [f"`{name}`" for name in (flag.short, flag.name, *flag.aliases) if name]
    shown = f" {value}" if value and flag.kind is not Kind.SWITCH else ""
    opposite = f" (opposite: {_listed(flag.negations)})" if flag.negations else ""
    return ", ".join(spellings) + shown + opposite


def _meaning(flag: Flag) -> str:
    words = [flag.help.replace("|", "\\|")]
    if flag.kind is Kind.LIST:
        words.append("Repeatable.")
    if flag.default:
        words.append(f"Default: `{flag.default}`.")
    return ". ".join([words[0], *words[1:]]) if len(words) > 1 else words[0]


def _foreign_lines() -> list[str]:
    ignored = _listed(flag.name for flag in IGNORED_FLAGS)
    lines = [f"Accepted without effect, with one notice: {ignored}.", "", "Refused, since they would change the result:", ""]
    lines += ["| flag | instead |", "|---|---|"]
    lines += [f"| `{flag.name}` | {flag.hint} |" for flag in (*REFUSED_FLAGS, *FALSE_ONLY_FLAGS)]
    return [*lines, ""]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    sys.stdout.write(reference())
