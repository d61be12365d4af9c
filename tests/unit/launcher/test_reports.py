"""Other programs read exactly the bytes that they expect, and only after a success."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sandboxbuild.errors import InputError, Span, StepFailed
from sandboxbuild.launcher.outcome import BuildOutcome, Record
from sandboxbuild.launcher.reports import forget_old, write_failure, write_file, write_reports
from sandboxbuild.launcher.settings import BuildSettings, ReportFiles
from sandboxbuild.protocol.events import BaseResolved, LogOutput, StepTimed

DIGEST, CONFIG = "sha256:" + "a" * 64, "sha256:" + "b" * 64
TYPE = "application/vnd.oci.image.manifest.v1+json"
NAMES = ("registry.example.com:5000/team/app:1.0", "docker.io/library/app:latest")


def outcome(**fields: object) -> BuildOutcome:
    record = Record()
    record.add(BaseResolved("alpine", "linux/amd64", DIGEST))
    record.add(LogOutput(1, 1, b"not kept", 1))
    record.add(StepTimed(1, "RUN x", True, 0, 1_500_000_000))
    return BuildOutcome("b1", TYPE, DIGEST, 7, CONFIG, NAMES, record)._replace(**fields)


def reports(folder: Path) -> BuildSettings:
    return BuildSettings(
        reports=ReportFiles(*(str(folder / name) for name in ("iid", "metadata", "digest", "names", "tags"))),
    )


def test_each_file_has_its_own_form(tmp_path: Path) -> None:
    write_reports(reports(tmp_path), outcome())
    assert (tmp_path / "iid").read_text() == CONFIG
    assert (tmp_path / "digest").read_bytes() == DIGEST.encode()  # Tekton reads it raw: no newline
    assert (tmp_path / "names").read_text() == (
        f"registry.example.com:5000/team/app@{DIGEST}\ndocker.io/library/app@{DIGEST}\n"
    )
    assert (tmp_path / "tags").read_text().splitlines()[0] == f"registry.example.com:5000/team/app:1.0@{DIGEST}"


def test_the_metadata_file_is_buildx_shape_with_ours_beside(tmp_path: Path) -> None:
    write_reports(reports(tmp_path), outcome())
    document = json.loads((tmp_path / "metadata").read_text())
    assert document["containerimage.digest"] == DIGEST
    assert document["containerimage.config.digest"] == CONFIG
    assert document["containerimage.descriptor"] == {"mediaType": TYPE, "digest": DIGEST, "size": 7}
    assert document["image.name"] == ",".join(NAMES)
    assert document["buildx.build.ref"].endswith("/b1")
    assert document["sandboxbuild.bases"] == [{"reference": "alpine", "platform": "linux/amd64", "digest": DIGEST}]
    assert document["sandboxbuild.steps"] == [{"name": "RUN x", "cached": True, "status": 0, "duration_s": 1.5}]


def test_an_index_is_its_own_image_id(tmp_path: Path) -> None:
    write_reports(reports(tmp_path), outcome(config_digest=""))
    assert (tmp_path / "iid").read_text() == DIGEST
    assert "containerimage.config.digest" not in json.loads((tmp_path / "metadata").read_text())


def test_a_failure_says_the_steps_own_status(tmp_path: Path) -> None:
    error = StepFailed("RUN x failed", status=42, span=Span("Dockerfile", 3, 3), hint="look")
    write_failure(reports(tmp_path), "b1", Record(), error)
    document = json.loads((tmp_path / "metadata").read_text())
    assert document["sandboxbuild.error"] == {
        "type": "StepFailed",
        "message": "RUN x failed",
        "exit_code": 1,
        "hint": "look",
        "status": 42,
        "source": {"file": "Dockerfile", "line": 3, "end_line": 3},
    }
    assert not (tmp_path / "digest").exists()


def test_what_an_earlier_build_said_is_forgotten(tmp_path: Path) -> None:
    write_reports(reports(tmp_path), outcome())
    forget_old(reports(tmp_path).reports)
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_is_written_into_and_never_removed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "iid")
    forget_old(ReportFiles(image_id=str(tmp_path / "iid")))
    reader = os.open(tmp_path / "iid", os.O_RDONLY | os.O_NONBLOCK)
    write_file(str(tmp_path / "iid"), "x")
    assert os.read(reader, 10) == b"x"
    os.close(reader)


def test_a_path_that_can_not_be_written_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be written"):
        write_file(str(tmp_path / "missing" / "iid"), "x")


def test_an_unwritable_metadata_file_does_not_hide_the_builds_error(tmp_path: Path) -> None:
    settings = BuildSettings(reports=ReportFiles(metadata=str(tmp_path / "missing" / "m")))
    write_failure(settings, "b1", Record(), StepFailed("x", status=1))
