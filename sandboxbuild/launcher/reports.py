"""The files that tell other programs what was built: image id, digest, names, metadata. Each appears whole or not at all.

Shapes: the metadata file is buildx's (`containerimage.*`, `image.name`, `buildx.build.ref`) with ours below `sandboxbuild.*`;
digest files are kaniko's: no newline after a digest, one line for each name.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from typing import Any

from sandboxbuild.errors import InputError, SandboxbuildError, StepFailed
from sandboxbuild.launcher.outcome import BuildOutcome, Record
from sandboxbuild.launcher.settings import BuildSettings, ReportFiles
from sandboxbuild.oci.reference import parse_reference
from sandboxbuild.protocol.events import BaseResolved, PushCompleted, StepTimed, WarningRaised


def forget_old(files: ReportFiles) -> None:
    """Remove what an earlier build said, before this one starts; a device or pipe (a termination log) is left."""
    for path in (files.image_id, files.digest, files.names_with_digest, files.tags_with_digest, files.metadata):
        if path and _is_regular(path):
            os.unlink(path)


def write_reports(settings: BuildSettings, outcome: BuildOutcome) -> None:
    """All of them, after a success. Raises InputError for a path that can't be written."""
    files = settings.reports
    if files.image_id:
        write_file(files.image_id, outcome.image_id)
    if files.digest:
        write_file(files.digest, outcome.digest)
    if files.names_with_digest:
        write_file(files.names_with_digest, named_lines(outcome, with_tag=False))
    if files.tags_with_digest:
        write_file(files.tags_with_digest, named_lines(outcome, with_tag=True))
    if files.metadata:
        write_file(files.metadata, encode(success_metadata(settings, outcome)))


def write_failure(settings: BuildSettings, build_id: str, record: Record, error: SandboxbuildError) -> None:
    """The metadata file of a build that failed; an error in writing it never hides the build's own."""
    if settings.reports.metadata:
        try:
            write_file(settings.reports.metadata, encode(failure_metadata(settings, build_id, record, error)))
        except SandboxbuildError:
            pass


def named_lines(outcome: BuildOutcome, *, with_tag: bool) -> str:
    """REGISTRY/REPOSITORY[:TAG]@DIGEST, a line for each name."""
    names = outcome.names
    references = [parse_reference(name) for name in names]
    texts = [f"{each.registry}/{each.repository}" + (f":{each.tag}" if with_tag and each.tag else "") for each in references]
    return "".join(f"{text}@{outcome.digest}\n" for text in texts)


def success_metadata(settings: BuildSettings, outcome: BuildOutcome) -> dict[str, Any]:
    document: dict[str, Any] = {
        "buildx.build.ref": f"sandboxbuild/{settings.profile}/{outcome.build_id}",
        "containerimage.descriptor": {
            "mediaType": outcome.media_type,
            "digest": outcome.digest,
            "size": outcome.size_bytes,
        },
        "containerimage.digest": outcome.digest,
    }
    if outcome.config_digest:
        document["containerimage.config.digest"] = outcome.config_digest
    if outcome.names:
        document["image.name"] = ",".join(outcome.names)
    return document | _ours(settings, outcome.record)


def failure_metadata(settings: BuildSettings, build_id: str, record: Record, error: SandboxbuildError) -> dict[str, Any]:
    failure: dict[str, Any] = {"type": type(error).__name__, "message": str(error), "exit_code": error.exit_code}
    if error.hint:
        failure["hint"] = error.hint
    if isinstance(error, StepFailed):
        failure["status"] = error.status
    span = getattr(error, "span", None)
    if span is not None:
        failure["source"] = {"file": span.file, "line": span.line, "end_line": span.end_line}
    ours = _ours(settings, record)
    return {"buildx.build.ref": f"sandboxbuild/{settings.profile}/{build_id}"} | ours | {"sandboxbuild.error": failure}


def _ours(settings: BuildSettings, record: Record) -> dict[str, Any]:
    return {
        "sandboxbuild.profile": settings.profile,
        "sandboxbuild.bases": [each._asdict() for each in record.of(BaseResolved)],
        "sandboxbuild.steps": [_step(each) for each in record.of(StepTimed)],
        "sandboxbuild.pushes": [each._asdict() for each in record.of(PushCompleted)],
        "sandboxbuild.warnings": [each.message for each in record.of(WarningRaised)],
    }


def _step(step: StepTimed) -> dict[str, Any]:
    return {"name": step.name, "cached": step.cached, "status": step.status, "duration_s": round(step.duration_ns / 1e9, 3)}


def encode(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def write_file(path: str, text: str) -> None:
    """Write `path` in one move, or into it where it is a device, a pipe or /dev/termination-log."""
    data = text.encode("utf-8", "replace")
    try:
        if os.path.lexists(path) and not _is_regular(path):
            _write(path, data, os.O_WRONLY)
            return
        temporary = f"{path}.{os.getpid()}.tmp"
        try:
            _write(temporary, data, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            os.replace(temporary, path)
        except OSError:
            _remove(temporary)
            raise
    except OSError as error:
        raise InputError(f"{path!r} can't be written: {error.strerror}") from error


def _write(path: str, data: bytes, flags: int) -> None:
    fd = os.open(path, flags | os.O_CLOEXEC, 0o644)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def _is_regular(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False
